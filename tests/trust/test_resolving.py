"""What an honest registry says, as a vehicle hears it."""

from __future__ import annotations

import pytest

from model_registry.contract.errors import RollbackRefused, Untrusted, WrongHardware
from tests.trust.world import BASE_URL, V1, V2, V3, FakeTransport, Registry, Vehicle, artifact, delta, via


def test_a_vehicle_learns_what_to_run_and_where_to_fetch_it(registry: Registry, vehicle: Vehicle) -> None:
    registry.publish(V1, V2)
    registry.assign(V2)

    target = vehicle.boot().resolve(counter_floor=1)

    assert target is not None
    assert (target.full, target.sha256, target.length) == V2.offer
    assert target.path == "models/signs/2.0.0.dfm"
    assert target.url == f"{BASE_URL}/repo/image/targets/models/signs/{V2.sha256}.2.0.0.dfm"


def test_an_empty_assignment_is_nothing_to_run_and_costs_no_image_metadata(
    registry: Registry, vehicle: Vehicle, transport: FakeTransport
) -> None:
    registry.publish(V1)
    registry.assign(None)
    assert vehicle.boot().resolve(counter_floor=0) is None
    assert not [path for path in transport.requests if "/image/" in path]


def test_the_same_version_again_is_no_rollback(registry: Registry, vehicle: Vehicle) -> None:
    registry.publish(V2)
    registry.assign(V2)
    assert vehicle.resolved(counter_floor=2) == "2.0.0"


def test_versions_follow_each_other_over_restarts(registry: Registry, vehicle: Vehicle) -> None:
    for number, item in enumerate((V1, V2, V3), start=1):
        registry.publish(item)
        registry.assign(item)
        assert vehicle.resolved(counter_floor=number - 1) == item.target.version


def test_a_lower_release_counter_is_refused(registry: Registry, vehicle: Vehicle) -> None:
    registry.publish(V1, V2)
    registry.assign(V1)
    with pytest.raises(RollbackRefused, match="below 2"):
        vehicle.resolved(counter_floor=2)


def test_a_model_for_other_hardware_is_refused(registry: Registry, vehicle: Vehicle) -> None:
    other = artifact("2.0.0", 2, hardware="ecu-2")
    registry.publish(other)
    registry.assign(other)
    with pytest.raises(WrongHardware, match="'ecu-2'"):
        vehicle.resolved()


def test_a_target_that_the_image_repository_does_not_know_is_refused(registry: Registry, vehicle: Vehicle) -> None:
    registry.publish(V1)
    registry.assign(V2)
    with pytest.raises(Untrusted, match="does not know"):
        vehicle.resolved()


def test_a_delta_is_found_after_its_target(registry: Registry, vehicle: Vehicle, transport: FakeTransport) -> None:
    registry.publish(V1, V2)
    path = registry.publish_delta(delta(V1, V2))
    registry.assign(V2)
    repositories = vehicle.boot()
    repositories.resolve(counter_floor=1)
    before = len(transport.requests)

    (found,) = repositories.chain(via(path, V2), base_sha256=V1.target.content_sha256)

    assert found.delta == delta(V1, V2)
    assert found.length == 9_000
    assert found.url == f"{BASE_URL}/repo/image/targets/deltas/signs/{found.sha256}.{path.rpartition('/')[2]}"
    assert len(transport.requests) == before + 1, "one role, in the edition that the target came from"


def test_a_chain_is_found_in_its_order_and_costs_no_more_requests(
    registry: Registry, vehicle: Vehicle, transport: FakeTransport
) -> None:
    registry.publish(V1, V2, V3)
    hops = (*via(registry.publish_delta(delta(V1, V2)), V2), *via(registry.publish_delta(delta(V2, V3)), V3))
    registry.assign(V3)
    repositories = vehicle.boot()
    repositories.resolve(counter_floor=1)
    before = len(transport.requests)

    found = repositories.chain(hops, base_sha256=V1.target.content_sha256)

    assert [file.delta for file in found] == [delta(V1, V2), delta(V2, V3)]
    assert len(transport.requests) == before + 1


def test_a_chain_may_lead_over_what_is_older_than_the_installed_model(registry: Registry, vehicle: Vehicle) -> None:
    """It is held in memory and never answers; only the target's counter counts."""
    registry.publish(V1, V2, V3)
    hops = (*via(registry.publish_delta(delta(V2, V1)), V1), *via(registry.publish_delta(delta(V1, V3)), V3))
    registry.assign(V3)
    repositories = vehicle.boot()
    repositories.resolve(counter_floor=2)
    assert len(repositories.chain(hops, base_sha256=V2.target.content_sha256)) == 2


def test_a_delta_means_nothing_before_its_target(registry: Registry, vehicle: Vehicle) -> None:
    registry.publish(V1, V2)
    path = registry.publish_delta(delta(V1, V2))
    with pytest.raises(RuntimeError, match="resolve"):
        vehicle.boot().chain(via(path, V2), base_sha256=V1.target.content_sha256)


def test_two_families_do_not_pay_for_each_other(registry: Registry, vehicle: Vehicle, transport: FakeTransport) -> None:
    registry.publish(V1, *(artifact(f"1.0.{n}", n + 1, family="lanes") for n in range(5)))
    registry.assign(V1)
    vehicle.resolved()
    assert not [path for path in transport.requests if "lanes" in path]
