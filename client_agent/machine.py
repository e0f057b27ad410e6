"""The runner: persist the state, act, look up the next one. It knows no state by name but the resting one.

A step returns how it ended; a refusal or a silent network ends it too. Where the pair leads is the table's business
(``states.TRANSITIONS``), so every way through an update can be read there.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import StrEnum

from client_agent.journal import Failure, Journal, Progress
from client_agent.states import TRANSITIONS, Event, State, next_state
from client_agent.stop import Stopped
from client_agent.tally import Tally
from model_registry.contract.errors import NotEnoughSpace, Refusal, Unreachable

log = logging.getLogger(__name__)

# An update takes twelve transitions; the longest path of the table, a refused delta and a return, fifteen.
LOOP_CAP = 30
MAX_RESTARTS = 5
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Step = Callable[[Progress], tuple[Event, Progress]]


class Moment(StrEnum):
    """When an observer is called: the state is on disk and about to act; it has acted, and its end is not on disk yet."""

    ENTERED = "entered"
    LEAVING = "leaving"


Observer = Callable[[State, Moment], None]


class LoopDetected(Exception):
    """The machine did not come to rest. This is a bug."""


def unobserved(state: State, moment: Moment) -> None:
    """Observe nothing."""


class Machine:
    """Runs ``steps`` over a journal. Only one may run on a state directory."""

    def __init__(self, journal: Journal, steps: Mapping[State, Step], tally: Tally, *, observe: Observer = unobserved) -> None:
        self._journal = journal
        self._steps = steps
        self._tally = tally
        self._observe = observe

    def begin(self) -> bool:
        """Count a start of the agent, before anything of the new model is loaded.

        True when the agent has ended so often while the new model was tried that it must not be tried again. Raises OSError.
        """
        progress = self._journal.read()
        self._tally.received = progress.received
        if (progress.state, Event.CRASHED_TOO_OFTEN) in TRANSITIONS:
            progress = replace(progress, restarts=progress.restarts + 1)
            self._journal.write(progress)
        return _crashes(progress)

    def resume(self) -> Progress:
        """Take up what a restart interrupted, to its end. Raises OSError when the disk refuses the journal."""
        progress = self._journal.read()
        if not _crashes(progress):
            return self._run(self._moved(progress, Event.RESTARTED))
        failure = Failure("crash_loop", f"the agent ended {progress.restarts} times while {progress.state}")
        return self._run(self._moved(replace(progress, failure=failure), Event.CRASHED_TOO_OFTEN))

    def check(self) -> Progress:
        """One pass: ask the registry, and bring what it assigns to its end or to an obstacle. Raises OSError as ``resume``."""
        if self._journal.read().state is not State.IDLE:
            self.resume()
        return self._run(self._moved(self._journal.read(), Event.DUE))

    def _run(self, progress: Progress) -> Progress:
        for _ in range(LOOP_CAP):
            if progress.state is State.IDLE:
                return progress
            self._observe(progress.state, Moment.ENTERED)
            event, progress = self._act(progress)
            self._observe(progress.state, Moment.LEAVING)
            progress = self._moved(progress, event)
        raise LoopDetected(f"no rest after {LOOP_CAP} transitions, now in state {progress.state}")

    def _act(self, progress: Progress) -> tuple[Event, Progress]:
        try:
            event, progress = self._steps[progress.state](progress)
        except Unreachable as exc:
            log.info("%s: %s", progress.state, exc)
            interrupted = replace(progress, silences=progress.silences + 1, attempts=progress.attempts + 1)
            event, progress = Event.UNREACHABLE, replace(interrupted, failure=Failure.of(exc))
        except Refusal as exc:
            log.warning("%s refused: %s", progress.state, exc)
            event, progress = Event.REFUSED, replace(progress, failure=Failure.of(exc))
        except OSError as exc:
            if exc.errno not in DISK_FULL:
                raise
            full = NotEnoughSpace(f"the disk is full while {progress.state}", remedy="free space on the vehicle")
            event, progress = Event.REFUSED, replace(progress, failure=Failure.of(full))
        except Stopped:
            raise
        except Exception as exc:
            # A mistake in this program must not end the updates of a fleet: it is reported like any other failure.
            log.exception("%s failed", progress.state)
            failure = Failure("internal_error", f"{type(exc).__name__} while {progress.state}")
            event, progress = Event.REFUSED, replace(progress, failure=failure)
        return event, replace(progress, received=self._tally.received)

    def _moved(self, progress: Progress, event: Event) -> Progress:
        moved = replace(progress, state=next_state(progress.state, event))
        if moved.state is State.IDLE and event not in (Event.UNREACHABLE, Event.RESTARTED):
            moved = replace(moved, silences=0)
        if moved.state is not progress.state:
            log.info("%s -> %s (%s)", progress.state, moved.state, event)
        self._journal.write(moved)
        return moved


def _crashes(progress: Progress) -> bool:
    return progress.restarts > MAX_RESTARTS and (progress.state, Event.CRASHED_TOO_OFTEN) in TRANSITIONS
