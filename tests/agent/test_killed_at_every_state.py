"""kill -9 on entering and on leaving every state, in real processes: afterwards a model answers, and the update completes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from client_agent.machine import Moment
from client_agent.states import State
from model_registry.contract.content import Content
from model_registry.contract.messages import DeploymentState, Hop
from tests.agent.models import FAMILY, black_picture, make_content
from tests.agent.registry import FakeRegistry, serving
from tests.agent.vehicles import Daemon, Vehicle, eventually

BY_DELTA = [
    State.CHECKING,
    State.RESOLVING,
    State.DOWNLOADING_DELTA,
    State.PATCHING,
    State.SELF_TESTING,
    State.SWAPPING,
    State.PROBATION,
    State.REPORTING,
]
BY_FULL = [State.DOWNLOADING_FULL, State.UNPACKING]
BY_CHAIN = [State.RESOLVING, State.DOWNLOADING_DELTA, State.PATCHING]
LAUNCHER = str(Path(__file__).with_name("killed_at.py"))


@pytest.fixture(scope="module")
def fleet(keys: Path, v1: Content, v2: Content, v3: Content) -> Iterator[FakeRegistry]:
    """A registry with three good versions, a delta from each to the next, and a version that breaks on black pictures."""
    with serving(keys) as registry:
        registry.publish(v1, 1)
        registry.publish(v2, 2)
        registry.publish(v3, 3)
        registry.publish_delta("1.0.0", "2.0.0")
        registry.publish_delta("2.0.0", "2.1.0")
        registry.publish(make_content("3.0.0", brittle=True), 4)
        yield registry


def hop(fleet: FakeRegistry, base: str, new: str) -> Hop:
    one, two = (fleet.published[version].content.sha256 for version in (base, new))
    return Hop(f"deltas/{FAMILY}/{one[:16]}-{two[:16]}.dfd", fleet.published[new].target.path)


def chain(fleet: FakeRegistry) -> list[Hop]:
    return [hop(fleet, "1.0.0", "2.0.0"), hop(fleet, "2.0.0", "2.1.0")]


def killed(vehicle: Vehicle, state: State, moment: Moment, *, black: bool = False) -> None:
    """Run an agent that kills itself there; until then the old model answers."""
    with vehicle.daemon(program=(LAUNCHER, "run"), env={"KILL_AT": f"{state}:{moment}"}) as daemon:

        def gone() -> bool:
            if black:
                ask_black(daemon)
            return daemon.process.poll() is not None

        eventually(gone, f"killed {moment} {state}", 60)
        assert daemon.process.returncode == -signal.SIGKILL, vehicle.log()


def ask_black(daemon: Daemon) -> None:
    daemon.try_ask("POST", f"/v2/models/{FAMILY}/classify", black_picture())


@pytest.mark.parametrize("moment", list(Moment))
@pytest.mark.parametrize("state", BY_DELTA + BY_FULL)
def test_killed_there_a_model_answers_and_the_update_completes(
    fleet: FakeRegistry, tmp_path: Path, v1: Content, state: State, moment: Moment
) -> None:
    vehicle = Vehicle(tmp_path / "car", fleet, f"car-{state}-{moment}").enrol().install(v1, 1)
    deployment = vehicle.vehicle_id
    fleet.assign(vehicle.vehicle_id, "2.0.0", deployment, hops=[] if state in BY_FULL else chain(fleet)[:1])
    killed(vehicle, state, moment)
    with vehicle.daemon() as daemon:
        eventually(lambda: daemon.version() is not None, "an answer after the restart")
        assert daemon.version() in ("1.0.0", "2.0.0")
        eventually(lambda: daemon.version() == "2.0.0", "the new model answers")
        eventually(lambda: ended(fleet, deployment) is DeploymentState.SUCCEEDED, "success is reported")
        assert daemon.terminate() == 0
    assert vehicle.running is not None
    assert vehicle.running.mark == "good"
    assert fleet.replays == 0


@pytest.mark.parametrize("moment", list(Moment))
@pytest.mark.parametrize("state", BY_CHAIN)
def test_killed_on_a_chain_of_deltas_the_update_completes_without_a_byte_twice(
    fleet: FakeRegistry, tmp_path: Path, v1: Content, state: State, moment: Moment
) -> None:
    vehicle = Vehicle(tmp_path / "car", fleet, f"chain-{state}-{moment}").enrol().install(v1, 1)
    deployment = vehicle.vehicle_id
    fleet.assign(vehicle.vehicle_id, "2.1.0", deployment, hops=chain(fleet))
    killed(vehicle, state, moment)
    vehicle.check()
    assert vehicle.running is not None
    assert (vehicle.running.version, vehicle.running.mark) == ("2.1.0", "good")
    report = fleet.last_report(deployment)
    assert report is not None
    assert report.state is DeploymentState.SUCCEEDED
    assert report.received.full == 0
    if (state, moment) != (State.DOWNLOADING_DELTA, Moment.LEAVING):  # what it had fetched was not in the journal yet
        assert report.received.delta == sum(len(fleet.artifact(one.delta_path)) for one in chain(fleet))


@pytest.mark.parametrize("moment", list(Moment))
@pytest.mark.parametrize("state", [State.RETURNING, State.REPORTING])
def test_killed_while_going_back_the_old_model_answers_and_the_failure_is_reported(
    fleet: FakeRegistry, tmp_path: Path, v1: Content, state: State, moment: Moment
) -> None:
    vehicle = Vehicle(tmp_path / "car", fleet, f"back-{state}-{moment}").enrol().install(v1, 1)
    vehicle.configure(probation_s=30.0)
    deployment = vehicle.vehicle_id
    fleet.assign(vehicle.vehicle_id, "3.0.0", deployment)
    killed(vehicle, state, moment, black=True)
    with vehicle.daemon() as daemon:
        eventually(lambda: daemon.version() == "1.0.0", "the old model answers")
        eventually(lambda: ended(fleet, deployment) is DeploymentState.FAILED, "the failure is reported")
        assert daemon.version() == "1.0.0"
        assert daemon.terminate() == 0
    assert vehicle.running is not None
    assert (vehicle.running.version, vehicle.slots.index.counter_floor) == ("1.0.0", 1)


# Such an update makes about sixty of these writes; the numbers are spread over all of it. The last one lies behind its end.
@pytest.mark.parametrize("number", [3, 11, 19, 27, 35, 43, 51, 59, 999])
def test_a_power_cut_between_two_writes_leaves_a_model_and_the_update_completes(
    fleet: FakeRegistry, tmp_path: Path, v1: Content, v3: Content, number: int
) -> None:
    vehicle = Vehicle(tmp_path / "car", fleet, f"write-{number}").enrol().install(v1, 1)
    fleet.assign(vehicle.vehicle_id, "2.1.0", vehicle.vehicle_id, hops=chain(fleet))
    command = [sys.executable, LAUNCHER, "check", "--state", str(vehicle.state)]
    environment = {**os.environ, "KILL_AT": f"write:{number}"}
    status = subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False).returncode
    assert status == (0 if number == 999 else -signal.SIGKILL)
    active = vehicle.slots.index.active
    assert active is not None
    assert vehicle.slots.load(active).sha256 in (v1.sha256, v3.sha256)
    vehicle.check()
    assert vehicle.running is not None
    assert (vehicle.running.version, vehicle.running.mark) == ("2.1.0", "good")
    assert ended(fleet, vehicle.vehicle_id) is DeploymentState.SUCCEEDED
    assert fleet.replays == 0


def ended(fleet: FakeRegistry, deployment: str) -> DeploymentState | None:
    report = fleet.last_report(deployment)
    return report.state if report and report.state.final else None
