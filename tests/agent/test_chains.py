"""Several deltas one after the other: what a vehicle takes, what it refuses, and what it costs."""

from __future__ import annotations

import pytest

from client_agent.slots import Mark
from model_registry.contract.content import Content
from model_registry.contract.messages import DeploymentState, Hop, VehicleReport
from model_registry.deltas import make_delta
from tests.agent.models import make_content
from tests.agent.registry import FakeRegistry
from tests.agent.vehicles import Vehicle
from tests.web import Answer, Request


@pytest.fixture
def hops(registry: FakeRegistry, v1: Content, v2: Content, v3: Content) -> list[Hop]:
    """The way from 1.0.0 over 2.0.0 to 2.1.0."""
    for counter, content in enumerate((v1, v2, v3), start=1):
        registry.publish(content, counter)
    return [registry.publish_delta("1.0.0", "2.0.0"), registry.publish_delta("2.0.0", "2.1.0")]


@pytest.fixture
def updating(registry: FakeRegistry, vehicle: Vehicle, hops: list[Hop], v1: Content) -> Vehicle:
    """A vehicle that runs 1.0.0 and is asked to run 2.1.0 by two deltas."""
    registry.assign("car-1", "2.1.0", "d2", hops=hops)
    return vehicle.install(v1, 1)


def ended(registry: FakeRegistry) -> VehicleReport:
    report = registry.last_report("d2")
    assert report is not None
    assert report.state.final
    return report


def runs(vehicle: Vehicle) -> str:
    assert vehicle.running is not None
    assert vehicle.running.mark is Mark.GOOD
    return vehicle.running.version


def by_full(registry: FakeRegistry, vehicle: Vehicle) -> str | None:
    """It got there by the full artifact; why the deltas were of no use."""
    assert runs(vehicle) == "2.1.0"
    report = ended(registry)
    assert (report.state, report.received.full) == (DeploymentState.SUCCEEDED, len(registry.published["2.1.0"].artifact))
    return report.detail


def test_each_delta_is_fetched_once_and_counted_and_only_the_last_content_is_installed(
    registry: FakeRegistry, updating: Vehicle, hops: list[Hop], v1: Content, v3: Content
) -> None:
    updating.check()
    assert runs(updating) == "2.1.0"
    report = ended(registry)
    assert report.received.delta == sum(len(registry.artifact(hop.delta_path)) for hop in hops)
    assert report.received.full == 0
    assert report.detail is None
    index = updating.slots.index
    assert {record.sha256 for record in (index.a, index.b) if record} == {v1.sha256, v3.sha256}
    assert index.counter_floor == 3


@pytest.mark.parametrize("cut_hop", [0, 1])
def test_a_cut_connection_goes_on_within_the_chain(
    registry: FakeRegistry, updating: Vehicle, hops: list[Hop], cut_hop: int
) -> None:
    data = registry.artifact(hops[cut_hop].delta_path)
    name = hops[cut_hop].delta_path.rpartition("/")[2]
    cuts = iter([True])

    def cut(request: Request) -> Answer | None:
        return Answer(body=data, cut_after=100) if request.path.endswith(name) and next(cuts, False) else None

    registry.fault = cut
    updating.check()
    assert runs(updating) == "1.0.0"
    updating.check()
    assert runs(updating) == "2.1.0"
    report = ended(registry)
    assert report.received.full == 0
    assert report.received.delta == sum(len(registry.artifact(hop.delta_path)) for hop in hops), "not one byte twice"
    assert [r.headers.get("range") for r in registry.fetched(name)] == [None, "bytes=100-"]


@pytest.mark.parametrize("hop", [0, 1])
@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_delta_of_the_chain_that_is_gone_costs_the_full_artifact(
    registry: FakeRegistry, updating: Vehicle, hops: list[Hop], hop: int, status: int
) -> None:
    name = hops[hop].delta_path.rpartition("/")[2]
    registry.fault = lambda r: Answer(status) if r.path.endswith(name) else None
    updating.check()
    assert f"answered {status}" in (by_full(registry, updating) or "")


def test_a_chain_over_a_content_that_was_not_signed_costs_the_full_artifact_and_no_delta(
    registry: FakeRegistry, vehicle: Vehicle, v1: Content, v2: Content, v3: Content
) -> None:
    for counter, content in ((1, v1), (3, v3)):
        registry.publish(content, counter)
    registry.published["2.0.0"] = registry.publish(make_content("1.9.0", seed=5), 2)
    hops = [registry.publish_delta("1.0.0", "2.0.0"), registry.publish_delta("2.0.0", "2.1.0")]
    registry.assign("car-1", "2.1.0", "d2", hops=[Hop(hops[0].delta_path, "models/signs/2.0.0.dfm"), hops[1]])
    vehicle.install(v1, 1).check()
    assert runs(vehicle) == "1.0.0", "the registry is asked once more"
    vehicle.check()
    assert "does not know" in (by_full(registry, vehicle) or "")
    assert not registry.fetched(".dfd")


def test_a_delta_that_makes_another_content_than_the_signed_one_costs_the_full_artifact(
    registry: FakeRegistry, vehicle: Vehicle, v1: Content, v2: Content, v3: Content
) -> None:
    for counter, content in enumerate((v1, v2, v3), start=1):
        registry.publish(content, counter)
    # Signed by the online key as the way to 2.0.0; what is inside leads elsewhere.
    elsewhere = make_delta(v1, make_content("2.0.0", change=lambda w: w * 1.6)).data
    hops = [registry.publish_delta("1.0.0", "2.0.0", artifact=elsewhere), registry.publish_delta("2.0.0", "2.1.0")]
    registry.assign("car-1", "2.1.0", "d2", hops=hops)
    vehicle.install(v1, 1).check()
    assert by_full(registry, vehicle)


def test_a_longer_chain_than_the_vehicle_takes_costs_the_full_artifact(registry: FakeRegistry, updating: Vehicle) -> None:
    updating.configure(max_hops=1).check()
    assert "at most 1 are taken" in (by_full(registry, updating) or "")
    assert not registry.fetched(".dfd")


def test_more_memory_than_the_vehicle_has_for_it_costs_the_full_artifact(
    registry: FakeRegistry, updating: Vehicle, v1: Content, v2: Content
) -> None:
    updating.configure(max_held_bytes=len(v1.data) + len(v2.data) - 1).check()
    assert "contents at once" in (by_full(registry, updating) or "")
    assert not registry.fetched(".dfd")


def test_a_chain_that_was_retired_after_the_check_in_is_asked_for_again(
    registry: FakeRegistry, updating: Vehicle, hops: list[Hop]
) -> None:
    """Between the check-in and the download a cheaper delta takes the chain's place."""
    direct = registry.publish_delta("1.0.0", "2.1.0")
    registry.image.retire([hops[0].delta_path, hops[0].target_path])
    updating.check()
    assert runs(updating) == "1.0.0"
    registry.assign("car-1", "2.1.0", "d2", hops=[direct])
    updating.check()
    assert runs(updating) == "2.1.0"
    report = ended(registry)
    assert (report.received.delta, report.received.full) == (len(registry.artifact(direct.delta_path)), 0)


def test_a_chain_that_stays_unknown_costs_the_full_artifact(registry: FakeRegistry, updating: Vehicle, hops: list[Hop]) -> None:
    registry.image.retire([hops[1].delta_path])
    updating.check()
    updating.check()
    assert "does not know the delta" in (by_full(registry, updating) or "")


def test_what_was_being_fetched_when_it_was_retired_is_fetched_to_its_end(
    registry: FakeRegistry, updating: Vehicle, hops: list[Hop]
) -> None:
    name = hops[1].delta_path.rpartition("/")[2]

    def retire(request: Request) -> Answer | None:
        if request.path.endswith(name):
            registry.image.retire([hop.delta_path for hop in hops])
        return None

    registry.fault = retire
    updating.check()
    assert runs(updating) == "2.1.0"
    assert ended(registry).received.full == 0
