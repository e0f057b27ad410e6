"""The state table as named chains: which way an update goes, and that it is on disk before anything acts."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from client_agent.journal import Journal, Progress
from client_agent.machine import LOOP_CAP, MAX_RESTARTS, LoopDetected, Machine, Moment
from client_agent.states import TRANSITIONS, Event, State, UnmatchedTransition, next_state
from client_agent.stop import Stopped
from client_agent.tally import Tally
from model_registry.contract.errors import SelfTestFailed, Unreachable

E, S = Event, State
Ending = Event | Exception


@dataclass(frozen=True)
class Chain:
    """How the states end, in order; the states that must be passed; what is remembered."""

    endings: list[tuple[State, Ending]]
    failure: str | None = None
    silences: int = 0

    @property
    def states(self) -> list[State]:
        return [state for state, _ in self.endings]


TO_THE_DELTA = [(S.CHECKING, E.ASSIGNED), (S.RESOLVING, E.DELTA_OFFERED)]
TO_THE_FULL = [(S.CHECKING, E.ASSIGNED), (S.RESOLVING, E.FULL_OFFERED)]
PROVE = [(S.SELF_TESTING, E.PROVEN), (S.SWAPPING, E.SWAPPED)]
END = [(S.PROBATION, E.HEALTHY), (S.REPORTING, E.REPORTED)]
FULL = [(S.DOWNLOADING_FULL, E.DOWNLOADED), (S.UNPACKING, E.REBUILT)]
SILENCE, NO = Unreachable("silence"), SelfTestFailed("no")

CHAINS: dict[str, Chain] = {
    "nothing new": Chain([(S.CHECKING, E.NOTHING_NEW)]),
    "registry silent": Chain([(S.CHECKING, SILENCE)], "unreachable", 1),
    "registry refuses": Chain([(S.CHECKING, NO)], "self_test_failed"),
    "already there": Chain([(S.CHECKING, E.ALREADY_RUNNING), (S.REPORTING, E.REPORTED)]),
    "by delta": Chain([*TO_THE_DELTA, (S.DOWNLOADING_DELTA, E.DOWNLOADED), (S.PATCHING, E.REBUILT), *PROVE, *END]),
    "by full": Chain([*TO_THE_FULL, *FULL, *PROVE, *END]),
    "delta gone": Chain([*TO_THE_DELTA, (S.DOWNLOADING_DELTA, E.DELTA_UNUSABLE), *FULL, *PROVE, *END]),
    "delta of no use": Chain(
        [*TO_THE_DELTA, (S.DOWNLOADING_DELTA, E.DOWNLOADED), (S.PATCHING, E.DELTA_UNUSABLE), *FULL, *PROVE, *END]
    ),
    "metadata refused": Chain([(S.CHECKING, E.ASSIGNED), (S.RESOLVING, NO), (S.REPORTING, E.REPORTED)], "self_test_failed"),
    "cut during the delta": Chain([*TO_THE_DELTA, (S.DOWNLOADING_DELTA, SILENCE)], "unreachable", 1),
    "cut during the full": Chain([*TO_THE_FULL, (S.DOWNLOADING_FULL, SILENCE)], "unreachable", 1),
    "full refused": Chain([*TO_THE_FULL, FULL[0], (S.UNPACKING, NO), (S.REPORTING, E.REPORTED)], "self_test_failed"),
    "self-test failed": Chain([*TO_THE_FULL, *FULL, (S.SELF_TESTING, NO), (S.REPORTING, E.REPORTED)], "self_test_failed"),
    "probation failed": Chain(
        [*TO_THE_FULL, *FULL, *PROVE, (S.PROBATION, E.UNHEALTHY), (S.RETURNING, E.RETURNED), (S.REPORTING, E.REPORTED)]
    ),
    "disk full": Chain(
        [*TO_THE_FULL, (S.DOWNLOADING_FULL, OSError(errno.ENOSPC, "full")), (S.REPORTING, E.REPORTED)], "not_enough_space"
    ),
    "a mistake in a step": Chain(
        [*TO_THE_FULL, (S.DOWNLOADING_FULL, KeyError("bug")), (S.REPORTING, E.REPORTED)], "internal_error"
    ),
    "tried too often": Chain([(S.CHECKING, E.TRIED_TOO_OFTEN), (S.REPORTING, E.REPORTED)]),
}


class Script:
    """Steps that end as a chain says."""

    def __init__(self, journal: Journal, endings: list[tuple[State, Ending]]) -> None:
        self.journal = journal
        self.endings = iter(endings)
        self.passed: list[State] = []

    def table(self) -> dict[State, Callable[[Progress], tuple[Event, Progress]]]:
        return dict.fromkeys(State, self.step)

    def step(self, progress: Progress) -> tuple[Event, Progress]:
        assert self.journal.read().state is progress.state, "the state is on disk before it acts"
        expected, ending = next(self.endings)
        assert progress.state is expected
        self.passed.append(progress.state)
        if isinstance(ending, Exception):
            raise ending
        return ending, progress


def machine_for(path: Path, endings: list[tuple[State, Ending]]) -> tuple[Machine, Script, Journal]:
    journal = Journal(path / "journal.json")
    script = Script(journal, endings)
    return Machine(journal, script.table(), Tally()), script, journal


@pytest.mark.parametrize("name", CHAINS)
def test_chain(name: str, tmp_path: Path) -> None:
    chain = CHAINS[name]
    machine, script, journal = machine_for(tmp_path, chain.endings)
    progress = machine.check()
    assert script.passed == chain.states
    assert progress.state is State.IDLE
    assert (progress.failure.code if progress.failure else None) == chain.failure
    assert progress.silences == chain.silences
    assert journal.read() == progress


def test_every_pair_of_the_table_is_walked_by_a_chain_or_is_a_restart() -> None:
    walked = {(S.IDLE, E.DUE)}
    for chain in CHAINS.values():
        for state, ending in chain.endings:
            silent = isinstance(ending, Unreachable)
            event = ending if isinstance(ending, Event) else E.UNREACHABLE if silent else E.REFUSED
            walked.add((state, event))
    restarts = {pair for pair in TRANSITIONS if pair[1] in (E.RESTARTED, E.CRASHED_TOO_OFTEN)}
    refusals = {pair for pair in TRANSITIONS if pair[1] is E.REFUSED}
    assert set(TRANSITIONS) - walked - restarts - refusals == {(S.RESOLVING, E.NOTHING_NEW), (S.RESOLVING, E.UNREACHABLE)}


def test_every_state_survives_a_restart_and_a_refusal() -> None:
    assert all((state, E.RESTARTED) in TRANSITIONS for state in State)
    assert all((state, E.REFUSED) in TRANSITIONS for state in State if state is not S.IDLE)


def test_every_state_leads_home() -> None:
    home = {S.IDLE}
    for _ in State:
        home |= {state for (state, event), after in TRANSITIONS.items() if after in home and event is not E.RESTARTED}
    assert home == set(State)


def test_an_unmatched_pair_is_called_a_bug() -> None:
    with pytest.raises(UnmatchedTransition, match="this is a bug"):
        next_state(S.IDLE, E.SWAPPED)


def test_a_machine_that_does_not_come_to_rest_is_stopped(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.json")
    journal.write(Progress(state=S.RESOLVING))
    circle = {S.RESOLVING: lambda p: (E.DELTA_OFFERED, p), S.DOWNLOADING_DELTA: lambda p: (E.RESTARTED, p)}
    with pytest.raises(LoopDetected, match=str(LOOP_CAP)):
        Machine(journal, circle, Tally()).resume()


def test_a_disk_that_fails_stops_the_pass_and_the_journal_keeps_the_state(tmp_path: Path) -> None:
    machine, _, journal = machine_for(tmp_path, [*TO_THE_FULL, (S.DOWNLOADING_FULL, OSError(errno.EIO, "broken"))])
    with pytest.raises(OSError, match="broken"):
        machine.check()
    assert journal.read().state is S.DOWNLOADING_FULL


def test_a_stop_leaves_the_state_for_the_next_start(tmp_path: Path) -> None:
    machine, _, journal = machine_for(tmp_path, [*TO_THE_FULL, (S.DOWNLOADING_FULL, Stopped())])
    with pytest.raises(Stopped):
        machine.check()
    assert journal.read().state is S.DOWNLOADING_FULL
    machine, script, _ = machine_for(tmp_path, [(S.RESOLVING, E.FULL_OFFERED), *FULL, *PROVE, *END])
    machine.begin()
    assert machine.resume().state is S.IDLE
    assert script.passed[0] is S.RESOLVING


@pytest.mark.parametrize("state", [S.SELF_TESTING, S.SWAPPING, S.PROBATION])
def test_a_model_that_ends_the_agent_again_and_again_is_sent_back(tmp_path: Path, state: State) -> None:
    Journal(tmp_path / "journal.json").write(Progress(state=state))
    for _ in range(MAX_RESTARTS):
        assert not machine_for(tmp_path, [])[0].begin()
    machine, script, _ = machine_for(tmp_path, [(S.RETURNING, E.RETURNED), (S.REPORTING, E.REPORTED)])
    assert machine.begin()
    progress = machine.resume()
    assert script.passed == [S.RETURNING, S.REPORTING]
    assert progress.failure is not None
    assert progress.failure.code == "crash_loop"


def test_a_restart_during_a_download_is_no_crash_of_the_model(tmp_path: Path) -> None:
    Journal(tmp_path / "journal.json").write(Progress(state=S.DOWNLOADING_FULL))
    for _ in range(3 * MAX_RESTARTS):
        assert not machine_for(tmp_path, [])[0].begin()


def test_an_observer_sees_each_state_enter_and_leave(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.json")
    seen: list[tuple[State, Moment]] = []
    script = Script(journal, [(S.CHECKING, E.NOTHING_NEW)])
    Machine(journal, script.table(), Tally(), observe=lambda *what: seen.append(what)).check()
    assert seen == [(S.CHECKING, Moment.ENTERED), (S.CHECKING, Moment.LEAVING)]


def test_silences_are_forgotten_when_the_registry_answers(tmp_path: Path) -> None:
    Journal(tmp_path / "journal.json").write(replace(Progress(), silences=4))
    machine, _, _ = machine_for(tmp_path, [(S.CHECKING, E.NOTHING_NEW)])
    assert machine.check().silences == 0
