"""Whole updates against a real server: what a vehicle runs afterwards, what it said, what it cost."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from client_agent.agent import pause_s
from client_agent.journal import Journal
from client_agent.slots import Mark
from client_agent.states import State
from client_agent.steps import MAX_ATTEMPTS
from model_registry.contract.content import Content
from model_registry.contract.full import encode_full
from model_registry.contract.messages import DeploymentState, VehicleReport
from tests.agent.models import make_content
from tests.agent.registry import FakeRegistry
from tests.agent.vehicles import Vehicle
from tests.web import Answer, Request


@pytest.fixture
def updating(registry: FakeRegistry, vehicle: Vehicle, v1: Content, v2: Content) -> Vehicle:
    """A vehicle that runs version 1 and is asked to run version 2 by a delta."""
    registry.publish(v1, 1)
    registry.publish(v2, 2)
    delta = registry.publish_delta("1.0.0", "2.0.0")
    registry.assign("car-1", "2.0.0", "d2", hops=[delta])
    return vehicle.install(v1, 1)


def ended(registry: FakeRegistry, deployment: str = "d2") -> VehicleReport:
    report = registry.last_report(deployment)
    assert report is not None
    assert report.state.final
    return report


def runs(vehicle: Vehicle) -> tuple[str, Mark]:
    assert vehicle.running is not None
    return vehicle.running.version, vehicle.running.mark


def test_an_empty_vehicle_installs_the_full_artifact(registry: FakeRegistry, vehicle: Vehicle, v1: Content) -> None:
    item = registry.publish(v1, 1)
    registry.assign("car-1", "1.0.0")
    vehicle.check()
    assert runs(vehicle) == ("1.0.0", Mark.GOOD)
    report = ended(registry, "d1")
    assert (report.state, report.code, report.received.full) == (DeploymentState.SUCCEEDED, None, len(item.artifact))
    assert report.installed is not None
    assert report.installed.content_sha256 == v1.sha256


def test_an_update_takes_the_delta(registry: FakeRegistry, updating: Vehicle) -> None:
    updating.check()
    assert runs(updating) == ("2.0.0", Mark.GOOD)
    received = ended(registry).received
    assert received.delta == sum(len(data) for name, data in registry.targets.items() if name.endswith(".dfd"))
    assert received.full == 0
    served = [r for r in registry.requests if "/metadata/" in r.path]
    assert served
    assert received.metadata > 1000
    assert registry.replays == 0


def test_the_deployment_is_reported_step_by_step(registry: FakeRegistry, updating: Vehicle) -> None:
    updating.check()
    states = [report.state.value for report in registry.reports]
    assert states == ["downloading", "rebuilding", "testing", "probation", "succeeded"]


def test_a_finished_deployment_is_not_begun_again(registry: FakeRegistry, updating: Vehicle) -> None:
    updating.check()
    before = len(registry.fetched(".dfd")), len(registry.reports)
    for _ in range(3):
        updating.check()
    assert (len(registry.fetched(".dfd")), len(registry.reports)) == before


def test_an_unchanged_instruction_costs_no_body(registry: FakeRegistry, updating: Vehicle) -> None:
    updating.check()
    updating.check()
    assert registry.requests[-1].headers["if-none-match"]
    metadata = [r for r in registry.requests if "/metadata/" in r.path]
    updating.check()
    assert [r for r in registry.requests if "/metadata/" in r.path] == metadata


def test_a_check_in_says_what_runs(registry: FakeRegistry, updating: Vehicle, v2: Content) -> None:
    updating.check()
    updating.check()
    first, last = registry.check_ins[0].installed, registry.check_ins[-1].installed
    assert first is not None
    assert last is not None
    assert (first.version, last.version, last.content_sha256) == ("1.0.0", "2.0.0", v2.sha256)


HOSTILE_DELTAS = {
    "noise": b"\x07" * 400,
    "bomb header": b"DFD1" + b"\xff" * 200,
    "a full artifact": b"DFM1" + b"\x00" * 100,
}


@pytest.mark.parametrize("name", HOSTILE_DELTAS)
def test_a_hostile_delta_costs_the_full_artifact_and_nothing_else(
    registry: FakeRegistry, vehicle: Vehicle, v1: Content, v2: Content, name: str
) -> None:
    registry.publish(v1, 1)
    full = registry.publish(v2, 2)
    delta = registry.publish_delta("1.0.0", "2.0.0", artifact=HOSTILE_DELTAS[name])
    registry.assign("car-1", "2.0.0", "d2", hops=[delta])
    vehicle.install(v1, 1).check()
    assert runs(vehicle) == ("2.0.0", Mark.GOOD)
    report = ended(registry)
    assert (report.state, report.received.full) == (DeploymentState.SUCCEEDED, len(full.artifact))
    assert report.detail, "why the delta was of no use"


def test_a_true_delta_on_another_base_costs_the_full_artifact(
    registry: FakeRegistry, vehicle: Vehicle, v1: Content, v2: Content
) -> None:
    registry.publish(v1, 1)
    registry.publish(v2, 2)
    delta = registry.publish_delta("1.0.0", "2.0.0")
    registry.assign("car-1", "2.0.0", "d2", hops=[delta])
    vehicle.install(make_content("1.5.0", seed=9), 1).check()
    assert runs(vehicle) == ("2.0.0", Mark.GOOD)
    assert not registry.fetched(".dfd"), "its name already says that it is for another base"


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_delta_that_is_gone_costs_the_full_artifact(registry: FakeRegistry, updating: Vehicle, status: int) -> None:
    registry.fault = lambda r: Answer(status) if r.path.endswith(".dfd") else None
    updating.check()
    assert runs(updating) == ("2.0.0", Mark.GOOD)


def test_a_tampered_delta_on_the_way_costs_the_full_artifact(registry: FakeRegistry, updating: Vehicle) -> None:
    def flip(request: Request) -> Answer | None:
        if not request.path.endswith(".dfd"):
            return None
        data = bytearray(registry.targets[request.path.removeprefix("/repo/image/targets/")])
        data[-1] ^= 1
        return Answer(body=bytes(data))

    registry.fault = flip
    updating.check()
    assert runs(updating) == ("2.0.0", Mark.GOOD)


def test_a_delta_server_in_trouble_is_waited_for_without_a_silent_full(registry: FakeRegistry, updating: Vehicle) -> None:
    registry.fault = lambda r: Answer(503) if r.path.endswith(".dfd") else None
    updating.check()
    assert runs(updating) == ("1.0.0", Mark.GOOD)
    assert not registry.fetched(".dfm")
    registry.fault = lambda _: None
    updating.check()
    assert runs(updating) == ("2.0.0", Mark.GOOD)
    assert not registry.fetched(".dfm")


HOSTILE_FULLS = {
    "noise": (b"\x07" * 400, {"artifact_unsupported"}),
    "truncated": (None, {"artifact_malformed"}),
    "another model": (encode_full(make_content("2.0.0", seed=5)), {"content_mismatch", "limit_exceeded"}),
}


@pytest.mark.parametrize("name", HOSTILE_FULLS)
def test_a_hostile_full_artifact_is_refused_with_its_cause_and_the_old_model_stays(
    registry: FakeRegistry, vehicle: Vehicle, v1: Content, v2: Content, name: str
) -> None:
    data, codes = HOSTILE_FULLS[name]
    registry.publish(v2, 2, artifact=data if data is not None else encode_full(v2)[:-40])
    registry.assign("car-1", "2.0.0", "d2")
    progress = vehicle.install(v1, 1).check()
    assert runs(vehicle) == ("1.0.0", Mark.GOOD)
    report = ended(registry)
    assert report.state is DeploymentState.FAILED
    assert report.code in codes
    assert progress.state is State.IDLE
    assert not list((vehicle.state / "staging").iterdir()), "nothing half-written stays"


def test_bytes_that_are_not_the_signed_ones_are_refused_before_they_are_parsed(
    registry: FakeRegistry, vehicle: Vehicle, v1: Content, v2: Content
) -> None:
    full = registry.publish(v2, 2)
    registry.assign("car-1", "2.0.0", "d2")
    registry.fault = lambda r: Answer(body=bytes(len(full.artifact))) if r.path.endswith(".dfm") else None
    vehicle.install(v1, 1).check()
    assert runs(vehicle) == ("1.0.0", Mark.GOOD)
    assert (ended(registry).code, len(registry.fetched(".dfm"))) == ("untrusted", 1)


def test_an_endless_artifact_is_cut_off_at_its_signed_length(
    registry: FakeRegistry, vehicle: Vehicle, v1: Content, v2: Content
) -> None:
    full = registry.publish(v2, 2)
    registry.assign("car-1", "2.0.0", "d2")
    registry.fault = lambda r: Answer(body=bytes(50 * len(full.artifact))) if r.path.endswith(".dfm") else None
    vehicle.install(v1, 1).check()
    report = ended(registry)
    assert (report.state, report.code) == (DeploymentState.FAILED, "limit_exceeded")
    assert report.received.full == 0, "the announced length alone was enough"


def test_a_model_with_nan_weights_is_refused_by_the_self_test(registry: FakeRegistry, vehicle: Vehicle, v1: Content) -> None:
    registry.publish(make_content("2.0.0", change=lambda w: w * float("nan"), golden_change=lambda w: w), 2)
    registry.assign("car-1", "2.0.0", "d2")
    vehicle.install(v1, 1).check()
    assert runs(vehicle) == ("1.0.0", Mark.GOOD)
    assert ended(registry).code in ("self_test_failed", "model_unusable")


def test_a_model_that_misses_its_golden_vectors_is_refused(registry: FakeRegistry, vehicle: Vehicle, v1: Content) -> None:
    registry.publish(make_content("2.0.0", change=lambda w: w * 1.2, golden_change=lambda w: w), 2)
    registry.assign("car-1", "2.0.0", "d2")
    vehicle.install(v1, 1).check()
    assert runs(vehicle) == ("1.0.0", Mark.GOOD)
    assert ended(registry).code == "self_test_failed"


def test_an_older_release_is_refused(registry: FakeRegistry, vehicle: Vehicle, v1: Content, v2: Content) -> None:
    registry.publish(v1, 1)
    registry.assign("car-1", "1.0.0", "d2")
    vehicle.install(v2, 2).check()
    assert runs(vehicle) == ("2.0.0", Mark.GOOD)
    assert ended(registry).code == "rollback_refused"


def test_a_clock_at_1970_still_updates(updating: Vehicle) -> None:
    updating.check(clock=lambda: datetime(1970, 1, 1, tzinfo=UTC))
    assert runs(updating) == ("2.0.0", Mark.GOOD)


def test_a_clock_at_2090_is_reported_and_recovers(registry: FakeRegistry, updating: Vehicle) -> None:
    updating.check(clock=lambda: datetime(2090, 1, 1, tzinfo=UTC))
    assert runs(updating) == ("1.0.0", Mark.GOOD)
    assert ended(registry).code == "metadata_expired"
    registry.assign("car-1", "2.0.0", "d3")
    updating.check()
    assert runs(updating) == ("2.0.0", Mark.GOOD)


def test_a_download_that_is_cut_goes_on_where_it_ended(registry: FakeRegistry, vehicle: Vehicle) -> None:
    big = make_content("1.0.0", hidden=100)
    item = registry.publish(big, 1)
    registry.assign("car-1", "1.0.0")
    cuts = iter([100_000, 50_000])

    def cut(request: Request) -> Answer | None:
        after = next(cuts, None) if request.path.endswith(".dfm") else None
        if after is None:
            return None
        start = int(request.headers.get("range", "bytes=0-")[6:-1])
        rest = item.artifact[start:]
        span = {"Content-Range": f"bytes {start}-{len(item.artifact) - 1}/{len(item.artifact)}"}
        return Answer(206 if start else 200, rest, span if start else {}, cut_after=after)

    registry.fault = cut
    for _ in range(3):
        vehicle.check()
    assert runs(vehicle) == ("1.0.0", Mark.GOOD)
    ranges = [request.headers.get("range") for request in registry.fetched(".dfm")]
    assert ranges == [None, "bytes=100000-", "bytes=150000-"]
    assert ended(registry, "d1").received.full == len(item.artifact), "not one byte was fetched twice"


def test_a_damaged_part_on_disk_is_fetched_again_and_counted(registry: FakeRegistry, vehicle: Vehicle) -> None:
    item = registry.publish(make_content("1.0.0", hidden=100), 1)
    registry.assign("car-1", "1.0.0")
    (vehicle.state / "staging").mkdir()
    (vehicle.state / "staging" / f"{item.sha256}.part").write_bytes(bytes(1000))
    vehicle.check()
    assert runs(vehicle) == ("1.0.0", Mark.GOOD)
    assert ended(registry, "d1").received.full == 2 * len(item.artifact) - 1000


@pytest.mark.parametrize("status", [404, 500, 503])
def test_a_server_that_never_gives_the_artifact_is_not_asked_for_ever(
    registry: FakeRegistry, vehicle: Vehicle, v1: Content, v2: Content, status: int
) -> None:
    registry.publish(v2, 2)
    registry.assign("car-1", "2.0.0", "d2")
    registry.fault = lambda r: Answer(status) if r.path.endswith(".dfm") else None
    vehicle.install(v1, 1).check()
    journal = Journal(vehicle.state / "journal.json")
    assert journal.read().attempts == 1
    journal.write(replace(journal.read(), attempts=MAX_ATTEMPTS - 2))
    for _ in range(5):
        vehicle.check()
    assert len(registry.fetched(".dfm")) == 1 + 2
    assert (ended(registry).state, ended(registry).code) == (DeploymentState.FAILED, "unreachable")


def test_silence_spaces_the_check_ins(registry: FakeRegistry, updating: Vehicle) -> None:
    registry.fault = lambda _: Answer(503)
    agent = updating.boot()
    pauses = [pause_s(agent.check(), random.Random(0)) for _ in range(10)]
    assert pauses[0] < 3
    assert 200 < pauses[-1] < 400


def test_a_withdrawn_assignment_is_left_and_its_bytes_are_removed(
    registry: FakeRegistry, vehicle: Vehicle, v1: Content, v2: Content
) -> None:
    registry.publish(v2, 2)
    registry.assign("car-1", "2.0.0", "d2")
    registry.fault = lambda r: Answer(500) if r.path.endswith(".dfm") else None
    vehicle.install(v1, 1).check()
    (vehicle.state / "staging" / "x.part").write_bytes(b"x")
    registry.assign("car-1", None)
    progress = vehicle.check()
    assert progress.assignment is None
    assert not list((vehicle.state / "staging").iterdir())


def test_a_check_in_and_metadata_that_name_different_models_install_nothing(
    registry: FakeRegistry, updating: Vehicle, v1: Content
) -> None:
    registry.publish(make_content("3.0.0", seed=4), 3)
    instruction = registry.instructions["car-1"]
    registry.assign("car-1", "3.0.0", "d3")
    registry.instructions["car-1"] = instruction
    updating.check()
    assert runs(updating) == ("1.0.0", Mark.GOOD)


def test_reports_wait_on_disk_for_a_registry_that_does_not_take_them(registry: FakeRegistry, updating: Vehicle) -> None:
    registry.fault = lambda r: Answer(503) if r.path.endswith("/reports") else None
    updating.check()
    assert runs(updating) == ("2.0.0", Mark.GOOD)
    assert not registry.reports
    registry.fault = lambda _: None
    updating.check()
    assert [report.state for report in registry.reports] == [DeploymentState.SUCCEEDED], "only the last word matters"


def test_a_report_that_the_registry_refuses_does_not_block_the_next(registry: FakeRegistry, updating: Vehicle) -> None:
    registry.fault = lambda r: Answer(422) if r.path.endswith("/reports") else None
    updating.check()
    registry.fault = lambda _: None
    registry.publish(make_content("3.0.0", seed=4), 3)
    registry.assign("car-1", "3.0.0", "d3")
    updating.check()
    assert ended(registry, "d3").state is DeploymentState.SUCCEEDED


def test_a_vehicle_that_is_not_accepted_says_so_and_goes_on_once_it_is(registry: FakeRegistry, updating: Vehicle) -> None:
    registry.accepted = False
    progress = updating.check()
    assert progress.failure is not None
    assert progress.failure.code == "not_enrolled"
    assert runs(updating) == ("1.0.0", Mark.GOOD)
    registry.accepted = True
    updating.check()
    assert runs(updating) == ("2.0.0", Mark.GOOD)
