"""The vehicle's half of a model's journey, as one table: where it is, what happened, where it goes.

Nothing else decides an order. A pair that is not in the table is a bug, and the machine says so. Every state survives a
restart: what only memory held is fetched or proven again, what disk holds is taken up (``RESTARTED``).
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """What the agent is about to do; the order a model travels in."""

    IDLE = "idle"
    CHECKING = "checking"
    RESOLVING = "resolving"
    DOWNLOADING_DELTA = "downloading_delta"
    PATCHING = "patching"
    DOWNLOADING_FULL = "downloading_full"
    UNPACKING = "unpacking"
    SELF_TESTING = "self_testing"
    SWAPPING = "swapping"
    PROBATION = "probation"
    RETURNING = "returning"
    REPORTING = "reporting"


class Event(StrEnum):
    """How a state ended."""

    DUE = "due"
    NOTHING_NEW = "nothing_new"
    ASSIGNED = "assigned"
    ALREADY_RUNNING = "already_running"
    DELTA_OFFERED = "delta_offered"
    FULL_OFFERED = "full_offered"
    DOWNLOADED = "downloaded"
    DELTA_UNUSABLE = "delta_unusable"
    REBUILT = "rebuilt"
    PROVEN = "proven"
    SWAPPED = "swapped"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    RETURNED = "returned"
    REPORTED = "reported"
    UNREACHABLE = "unreachable"
    REFUSED = "refused"
    RESTARTED = "restarted"
    TRIED_TOO_OFTEN = "tried_too_often"
    CRASHED_TOO_OFTEN = "crashed_too_often"


_S, _E = State, Event

TRANSITIONS: dict[tuple[State, Event], State] = {
    (_S.IDLE, _E.DUE): _S.CHECKING,
    (_S.IDLE, _E.RESTARTED): _S.IDLE,
    # Ask the registry what to run.
    (_S.CHECKING, _E.NOTHING_NEW): _S.IDLE,
    (_S.CHECKING, _E.ASSIGNED): _S.RESOLVING,
    (_S.CHECKING, _E.ALREADY_RUNNING): _S.REPORTING,
    (_S.CHECKING, _E.TRIED_TOO_OFTEN): _S.REPORTING,
    (_S.CHECKING, _E.UNREACHABLE): _S.IDLE,
    (_S.CHECKING, _E.REFUSED): _S.IDLE,
    (_S.CHECKING, _E.RESTARTED): _S.IDLE,
    # Learn from signed metadata what that is.
    (_S.RESOLVING, _E.DELTA_OFFERED): _S.DOWNLOADING_DELTA,
    (_S.RESOLVING, _E.FULL_OFFERED): _S.DOWNLOADING_FULL,
    (_S.RESOLVING, _E.NOTHING_NEW): _S.IDLE,
    (_S.RESOLVING, _E.UNREACHABLE): _S.IDLE,
    (_S.RESOLVING, _E.REFUSED): _S.REPORTING,
    (_S.RESOLVING, _E.RESTARTED): _S.RESOLVING,
    # The short way: a delta on the content that runs now. Whatever is wrong with it, the long way remains.
    (_S.DOWNLOADING_DELTA, _E.DOWNLOADED): _S.PATCHING,
    (_S.DOWNLOADING_DELTA, _E.DELTA_UNUSABLE): _S.DOWNLOADING_FULL,
    (_S.DOWNLOADING_DELTA, _E.UNREACHABLE): _S.IDLE,
    (_S.DOWNLOADING_DELTA, _E.REFUSED): _S.REPORTING,
    (_S.DOWNLOADING_DELTA, _E.RESTARTED): _S.RESOLVING,
    (_S.PATCHING, _E.REBUILT): _S.SELF_TESTING,
    (_S.PATCHING, _E.DELTA_UNUSABLE): _S.DOWNLOADING_FULL,
    (_S.PATCHING, _E.REFUSED): _S.REPORTING,
    (_S.PATCHING, _E.RESTARTED): _S.RESOLVING,
    # The long way.
    (_S.DOWNLOADING_FULL, _E.DOWNLOADED): _S.UNPACKING,
    (_S.DOWNLOADING_FULL, _E.UNREACHABLE): _S.IDLE,
    (_S.DOWNLOADING_FULL, _E.REFUSED): _S.REPORTING,
    (_S.DOWNLOADING_FULL, _E.RESTARTED): _S.RESOLVING,
    (_S.UNPACKING, _E.REBUILT): _S.SELF_TESTING,
    (_S.UNPACKING, _E.REFUSED): _S.REPORTING,
    (_S.UNPACKING, _E.RESTARTED): _S.RESOLVING,
    # Prove it beside the running model, then let it answer.
    (_S.SELF_TESTING, _E.PROVEN): _S.SWAPPING,
    (_S.SELF_TESTING, _E.REFUSED): _S.REPORTING,
    (_S.SELF_TESTING, _E.RESTARTED): _S.SELF_TESTING,
    (_S.SELF_TESTING, _E.CRASHED_TOO_OFTEN): _S.RETURNING,
    (_S.SWAPPING, _E.SWAPPED): _S.PROBATION,
    (_S.SWAPPING, _E.REFUSED): _S.RETURNING,
    (_S.SWAPPING, _E.RESTARTED): _S.SELF_TESTING,
    (_S.SWAPPING, _E.CRASHED_TOO_OFTEN): _S.RETURNING,
    (_S.PROBATION, _E.HEALTHY): _S.REPORTING,
    (_S.PROBATION, _E.UNHEALTHY): _S.RETURNING,
    (_S.PROBATION, _E.REFUSED): _S.RETURNING,
    (_S.PROBATION, _E.RESTARTED): _S.PROBATION,
    (_S.PROBATION, _E.CRASHED_TOO_OFTEN): _S.RETURNING,
    (_S.RETURNING, _E.RETURNED): _S.REPORTING,
    (_S.RETURNING, _E.REFUSED): _S.REPORTING,
    (_S.RETURNING, _E.RESTARTED): _S.RETURNING,
    # Say how it ended; the report waits on disk for as long as it takes.
    (_S.REPORTING, _E.REPORTED): _S.IDLE,
    (_S.REPORTING, _E.REFUSED): _S.IDLE,
    (_S.REPORTING, _E.RESTARTED): _S.REPORTING,
}


class UnmatchedTransition(Exception):
    """A state ended in a way that the table does not know. This is a bug."""


def next_state(state: State, event: Event) -> State:
    """Raises UnmatchedTransition."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise UnmatchedTransition(f"{event} in state {state}: this is a bug, please report it") from None
