"""What a rollout does next, as tables."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import InvalidRequest, WrongState
from server.repositories.rollouts import Counts
from server.services.rollouts import (
    CloseWave,
    Finish,
    Halt,
    OpenWave,
    RolloutEvent,
    RolloutView,
    Wait,
    WaveView,
    allowed_events,
    assign_waves,
    check_waves,
    decide,
    next_state,
)
from server.tables import RolloutState, WaveState

S, E, W = RolloutState, RolloutEvent, WaveState


@pytest.mark.parametrize(
    ("state", "event", "then"),
    [
        (S.DRAFT, E.START, S.RUNNING),
        (S.DRAFT, E.ABORT, S.ABORTED),
        (S.RUNNING, E.PAUSE, S.PAUSED),
        (S.RUNNING, E.HALT, S.PAUSED),
        (S.RUNNING, E.ABORT, S.ABORTED),
        (S.RUNNING, E.FINISH, S.FINISHED),
        (S.PAUSED, E.RESUME, S.RUNNING),
        (S.PAUSED, E.ABORT, S.ABORTED),
    ],
)
def test_an_allowed_event_leads_to_its_state(state: RolloutState, event: RolloutEvent, then: RolloutState) -> None:
    assert next_state(state, event) is then


@pytest.mark.parametrize(
    ("state", "event", "advice"),
    [
        (S.DRAFT, E.PAUSE, "start or abort"),
        (S.RUNNING, E.START, "pause or abort"),
        (S.PAUSED, E.PAUSE, "resume or abort"),
        (S.FINISHED, E.ABORT, "create another"),
        (S.ABORTED, E.RESUME, "create another"),
    ],
)
def test_any_other_event_is_refused_with_what_is_possible(state: RolloutState, event: RolloutEvent, advice: str) -> None:
    with pytest.raises(WrongState, match=advice):
        next_state(state, event)


def test_what_the_registry_says_itself_is_no_word_of_operators() -> None:
    assert all(event not in (E.HALT, E.FINISH) for state in RolloutState for event in allowed_events(state))


def wave(ordinal: int, state: WaveState, *, total: int = 4, ok: int = 0, bad: int = 0, gone: int = 0) -> WaveView:
    return WaveView(ordinal, state, Counts(total, ok, bad, gone))


def running(*waves: WaveView, success: float = 100, error: float = 20, minimum: int = 1) -> RolloutView:
    return RolloutView(S.RUNNING, success, error, minimum, waves)


SCHEDULED, OPEN, DONE = W.SCHEDULED, W.OPEN, W.DONE


@pytest.mark.parametrize(
    ("rollout", "decision"),
    [
        pytest.param(running(wave(0, SCHEDULED), wave(1, SCHEDULED)), OpenWave(0), id="the first wave opens at once"),
        pytest.param(running(wave(0, OPEN, ok=3), wave(1, SCHEDULED)), Wait(), id="the next one waits"),
        pytest.param(running(wave(0, OPEN, ok=4), wave(1, SCHEDULED)), CloseWave(0), id="all succeeded"),
        pytest.param(running(wave(0, OPEN, ok=3), success=75), CloseWave(0), id="the success threshold is reached"),
        pytest.param(running(wave(0, OPEN, ok=2), success=75), Wait(), id="one below the success threshold"),
        pytest.param(running(wave(0, DONE, ok=4), wave(1, SCHEDULED)), OpenWave(1), id="then the next opens"),
        pytest.param(running(wave(0, OPEN, total=0), wave(1, SCHEDULED)), CloseWave(0), id="nobody in it"),
        pytest.param(running(wave(0, OPEN, ok=3, gone=1)), CloseWave(0), id="who left does not count"),
        pytest.param(running(wave(0, OPEN, total=10, ok=9, bad=1)), CloseWave(0), id="failures below the threshold"),
        pytest.param(
            running(wave(0, OPEN, total=5, ok=4, bad=1), error=20),
            CloseWave(0),
            id="exactly the error threshold is not above it",
        ),
        pytest.param(
            running(wave(0, OPEN, ok=1, bad=1)), Halt("wave 1: 1 of 2 vehicles failed, above 20 %"), id="too many failed"
        ),
        pytest.param(running(wave(0, OPEN, bad=1), minimum=2), Wait(), id="too few to judge"),
        pytest.param(
            running(wave(0, OPEN, ok=1, bad=1), minimum=2),
            Halt("wave 1: 1 of 2 vehicles failed, above 20 %"),
            id="enough to judge",
        ),
        pytest.param(
            running(wave(0, OPEN, total=2, bad=2), minimum=5),
            Halt("wave 1: 2 of 2 vehicles failed, above 20 %"),
            id="a wave smaller than the minimum is judged when it is over",
        ),
        pytest.param(
            running(wave(0, DONE, ok=2, bad=2), wave(1, SCHEDULED), success=50),
            Halt("wave 1: 2 of 4 vehicles failed, above 20 %"),
            id="stragglers of a wave that is done still halt the rollout",
        ),
        pytest.param(running(wave(0, DONE, ok=3), success=75), Wait(), id="the last straggler is waited for"),
        pytest.param(running(wave(0, DONE, ok=4), wave(1, DONE, ok=3, gone=1)), Finish(), id="everybody has finished"),
        pytest.param(
            replace(running(wave(0, SCHEDULED)), deltas_in_the_making=True),
            Wait("the deltas in the making are done"),
            id="deltas come first",
        ),
        pytest.param(
            replace(running(wave(0, OPEN, ok=4)), deltas_in_the_making=True), CloseWave(0), id="deltas hold up only opening"
        ),
        pytest.param(
            replace(running(wave(0, SCHEDULED)), is_listed=False),
            Wait("signed metadata names the version again, which takes the release key"),
            id="signed metadata comes first",
        ),
        pytest.param(replace(running(wave(0, OPEN, ok=4)), is_listed=False), CloseWave(0), id="and holds up only opening"),
        pytest.param(replace(running(wave(0, SCHEDULED)), state=S.PAUSED), Wait(), id="paused"),
        pytest.param(replace(running(wave(0, SCHEDULED)), state=S.DRAFT), Wait(), id="not started"),
    ],
)
def test_the_next_thing_to_do(rollout: RolloutView, decision: object) -> None:
    assert decide(rollout) == decision


def test_pardoned_failures_do_not_halt_again_and_new_ones_do() -> None:
    pardoned = replace(wave(0, OPEN, total=10, ok=1, bad=2), pardoned_executed=3, pardoned_failed=2)
    assert decide(running(pardoned)) == Wait()
    worse = replace(pardoned, counts=Counts(10, 1, 3))
    assert decide(running(worse)) == Halt("wave 1: 1 of 1 vehicles failed, above 20 %")


@given(
    totals=st.lists(st.integers(0, 6), min_size=1, max_size=5),
    success=st.floats(0, 100),
    error=st.floats(0, 100),
    minimum=st.integers(1, 10),
    outcomes=st.randoms(use_true_random=False),
)
def test_every_rollout_ends_or_halts_whatever_its_vehicles_do(
    totals: list[int], success: float, error: float, minimum: int, outcomes: object
) -> None:
    random = outcomes
    waves = [wave(n, SCHEDULED, total=total) for n, total in enumerate(totals)]
    for _ in range(4 * len(waves) + sum(totals) + 2):
        match decide(running(*waves, success=success, error=error, minimum=minimum)):
            case OpenWave(n):
                waves[n] = replace(waves[n], state=OPEN)
            case CloseWave(n):
                waves[n] = replace(waves[n], state=DONE)
            case Finish():
                assert all(w.counts.final == w.counts.total for w in waves)
                return
            case Halt():
                assert sum(w.counts.failed for w in waves) > 0
                return
            case Wait():
                unfinished = next(
                    n for n, w in enumerate(waves) if w.state is not SCHEDULED and w.counts.final < w.counts.total
                )
                counts = waves[unfinished].counts
                field = random.choice(["succeeded", "failed", "aborted"])  # type: ignore[attr-defined]
                waves[unfinished] = replace(waves[unfinished], counts=replace(counts, **{field: getattr(counts, field) + 1}))
    pytest.fail("the rollout neither ended nor halted")


@pytest.mark.parametrize("percents", [[], [0, 100], [50, 50], [60, 40], [50, 101], [-1], [100] * 2])
def test_waves_that_do_not_grow_to_at_most_all_are_refused(percents: list[float]) -> None:
    with pytest.raises(InvalidRequest):
        check_waves(percents)


FLEET = [f"car-{n}" for n in range(8)]


def test_waves_take_their_share_rounded_up() -> None:
    assert [len(w) for w in assign_waves(FLEET, [25, 50, 100], seed="1")] == [2, 2, 4]
    assert [len(w) for w in assign_waves(FLEET, [1, 100], seed="1")] == [1, 7]
    assert [len(w) for w in assign_waves(FLEET[:1], [10, 50, 100], seed="1")] == [1, 0, 0]
    assert [len(w) for w in assign_waves([f"v{n}" for n in range(100)], [7, 57, 100], seed="1")] == [7, 50, 43]


def test_vehicles_beyond_the_last_wave_take_no_part() -> None:
    assert [len(w) for w in assign_waves(FLEET, [25], seed="1")] == [2]


def test_the_same_rollout_has_the_same_canaries_and_another_has_others() -> None:
    fleet = [f"car-{n}" for n in range(1000)]
    first = assign_waves(fleet, [10, 100], seed="1")
    assert assign_waves(list(reversed(fleet)), [10, 100], seed="1") == first
    shared = set(first[0]) & set(assign_waves(fleet, [10, 100], seed="2")[0])
    assert len(shared) < 30  # ten are expected by chance


@given(ids=st.sets(st.text(min_size=1), max_size=60), cuts=st.sets(st.integers(1, 100), min_size=1, max_size=6))
def test_no_vehicle_is_in_two_waves_and_all_are_in_waves_that_go_to_100(ids: set[str], cuts: set[int]) -> None:
    waves = assign_waves(ids, sorted(cuts | {100}), seed="x")
    assert sorted(v for w in waves for v in w) == sorted(ids)
