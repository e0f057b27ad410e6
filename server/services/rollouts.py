"""What a rollout does next: one transition table and pure decisions. ``waves`` carries them out.

A wave opens when the one before has done its part: its success threshold is reached, or none of its vehicles is still at it.
A rollout halts when, among the vehicles of a wave that have finished, the failed ones are above the error threshold; judged
as soon as ``min_executed`` have finished, or all of a smaller wave. It is finished when every vehicle has finished.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from server.errors import InvalidRequest, WrongState
from server.repositories.rollouts import Counts
from server.tables import RolloutState, WaveState

MAX_WAVES = 100


class RolloutEvent(StrEnum):
    """What can happen to a rollout: operators' words, and ``halt`` and ``finish``, which the registry says itself."""

    START = "start"
    PAUSE = "pause"
    RESUME = "resume"
    ABORT = "abort"
    HALT = "halt"
    FINISH = "finish"


_S, _E = RolloutState, RolloutEvent
TRANSITIONS: Mapping[tuple[RolloutState, RolloutEvent], RolloutState] = MappingProxyType(
    {
        (_S.DRAFT, _E.START): _S.RUNNING,
        (_S.DRAFT, _E.ABORT): _S.ABORTED,
        (_S.RUNNING, _E.PAUSE): _S.PAUSED,
        (_S.RUNNING, _E.HALT): _S.PAUSED,
        (_S.RUNNING, _E.FINISH): _S.FINISHED,
        (_S.RUNNING, _E.ABORT): _S.ABORTED,
        (_S.PAUSED, _E.RESUME): _S.RUNNING,
        (_S.PAUSED, _E.ABORT): _S.ABORTED,
    }
)


def next_state(state: RolloutState, event: RolloutEvent) -> RolloutState:
    """The state after the event. Raises WrongState."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        possible = [e.value for s, e in TRANSITIONS if s is state and e not in (_E.HALT, _E.FINISH)]
        remedy = f"it can be told to {' or '.join(possible)}" if possible else "create another rollout"
        raise WrongState(f"a rollout that is {state.value} cannot {event.value}", remedy=remedy) from None


def allowed_events(state: RolloutState) -> list[RolloutEvent]:
    """What an operator may tell a rollout in this state."""
    return [event for s, event in TRANSITIONS if s is state and event not in (_E.HALT, _E.FINISH)]


def check_waves(percents: Sequence[float]) -> None:
    """Waves are growing shares of all vehicles. Raises InvalidRequest."""
    growing = all(a < b for a, b in itertools.pairwise(percents))
    if not 1 <= len(percents) <= MAX_WAVES or not growing or percents[0] <= 0 or percents[-1] > 100:
        raise InvalidRequest(
            f"waves {list(percents)} are not growing percentages above 0 and at most 100", remedy="for example 25, 50, 100"
        )


def assign_waves(vehicle_ids: Iterable[str], percents: Sequence[float], *, seed: str) -> list[list[str]]:
    """Share the vehicles out. The same vehicles and ``seed`` give the same waves; another seed, other canaries.

    Wave k takes the order's vehicles up to ``percents[k]`` percent of all, rounded up, so that a first wave is never empty.
    Vehicles beyond the last percentage take no part.
    """
    order = sorted(set(vehicle_ids), key=lambda vehicle: hashlib.sha256(f"{seed}/{vehicle}".encode()).digest())
    # Rounded before rounding up: 0.07 * 100 is a little more than 7 in binary.
    ends = [math.ceil(round(len(order) * percent / 100, 6)) for percent in percents]
    return [order[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@dataclass(frozen=True, slots=True)
class WaveView:
    """A wave as decisions see it. ``pardoned``: outcomes that an operator has looked at and gone on after."""

    ordinal: int
    state: WaveState
    counts: Counts
    pardoned_executed: int = 0
    pardoned_failed: int = 0


@dataclass(frozen=True, slots=True)
class RolloutView:
    """A rollout as decisions see it.

    ``deltas_in_the_making``: opening a wave now would send full artifacts instead. ``is_listed``: signed metadata names the
    version; vehicles would refuse it otherwise.
    """

    state: RolloutState
    success_threshold_percent: float
    error_threshold_percent: float
    min_executed: int
    waves: tuple[WaveView, ...]
    deltas_in_the_making: bool = False
    is_listed: bool = True


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do for now. ``until``: what the next wave waits for besides vehicles."""

    until: str | None = None


@dataclass(frozen=True, slots=True)
class Halt:
    """Stop opening waves and starting vehicles: too many have failed."""

    because: str


@dataclass(frozen=True, slots=True)
class CloseWave:
    """The wave has done its part."""

    ordinal: int


@dataclass(frozen=True, slots=True)
class OpenWave:
    """Offer the version to the wave's vehicles."""

    ordinal: int


@dataclass(frozen=True, slots=True)
class Finish:
    """Every vehicle has finished."""


Decision = Wait | Halt | CloseWave | OpenWave | Finish


def decide(rollout: RolloutView) -> Decision:
    """The one next thing to do; asked again after each thing done, until it is to wait."""
    if rollout.state is not RolloutState.RUNNING:
        return Wait()
    for wave in rollout.waves:
        if wave.state is not WaveState.SCHEDULED and (problem := _too_many_failed(wave, rollout)):
            return Halt(problem)
    for wave in rollout.waves:
        if wave.state is WaveState.OPEN:
            return CloseWave(wave.ordinal) if _has_done_its_part(wave, rollout) else Wait()
        if wave.state is WaveState.SCHEDULED:
            return _opening(wave, rollout)
    return Finish() if all(w.counts.final == w.counts.total for w in rollout.waves) else Wait()


def _opening(wave: WaveView, rollout: RolloutView) -> Decision:
    if not rollout.is_listed:
        return Wait("signed metadata names the version again, which takes the release key")
    return Wait("the deltas in the making are done") if rollout.deltas_in_the_making else OpenWave(wave.ordinal)


def _too_many_failed(wave: WaveView, rollout: RolloutView) -> str | None:
    counts = wave.counts
    executed = counts.succeeded + counts.failed - wave.pardoned_executed
    failed = counts.failed - wave.pardoned_failed
    # A wave smaller than the minimum is judged when all of it has finished; otherwise it never would be.
    enough = min(rollout.min_executed, counts.total - counts.aborted - wave.pardoned_executed)
    if failed <= 0 or executed < enough or failed * 100 <= rollout.error_threshold_percent * executed:
        return None
    return f"wave {wave.ordinal + 1}: {failed} of {executed} vehicles failed, above {rollout.error_threshold_percent:g} %"


def _has_done_its_part(wave: WaveView, rollout: RolloutView) -> bool:
    taking_part = wave.counts.total - wave.counts.aborted
    reached = wave.counts.succeeded * 100 >= rollout.success_threshold_percent * taking_part
    return reached or wave.counts.final == wave.counts.total
