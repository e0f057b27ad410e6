"""Old metadata shown as new, and time that stands still: for the vehicle, for the registry, or for an attacker."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from model_registry.contract.errors import MetadataExpired, RollbackRefused, Unreachable, Untrusted
from model_registry.trust.keys import Role
from tests.trust.world import FAMILY, NOON, V1, V2, VEHICLE, Attacker, FakeTransport, Registry, Vehicle, artifact, served

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FAR_FUTURE = datetime(2050, 1, 1, tzinfo=UTC)
EXPIRED = "2027-02-01T00:00:00Z"
ROLES = {"root": Role.ROOT, "timestamp": Role.TIMESTAMP, "snapshot": Role.SNAPSHOT, "targets": Role.TARGETS}
IMAGE_ROLES = {**ROLES, f"family-{FAMILY}": Role.FAMILY}
DIRECTOR_ROLES = {name: Role(f"director-{role.value}") for name, role in ROLES.items()}


def expire(document: dict[str, Any]) -> None:
    document["expires"] = EXPIRED


def expired_root(document: dict[str, Any]) -> None:
    document.update(version=2, expires=EXPIRED)


@pytest.fixture(autouse=True)
def updated_once(registry: Registry, vehicle: Vehicle) -> dict[str, bytes]:
    """The vehicle has seen version 1; the files of that day."""
    registry.publish(V1)
    registry.assign(V1)
    assert vehicle.resolved() == "1.0.0"
    return dict(registry.store.files)


def move_on(registry: Registry, vehicle: Vehicle) -> None:
    registry.publish(V2)
    registry.assign(V2)
    assert vehicle.resolved(counter_floor=1) == "2.0.0"


def test_an_old_image_timestamp_is_refused(registry: Registry, vehicle: Vehicle, updated_once: dict[str, bytes]) -> None:
    move_on(registry, vehicle)
    registry.store.files["timestamp.json"] = updated_once["timestamp.json"]
    with pytest.raises(RollbackRefused, match="timestamp"):
        vehicle.resolved(counter_floor=2)


def test_a_timestamp_once_seen_is_not_taken_back_even_if_the_rest_was_cut_off(
    registry: Registry, vehicle: Vehicle, transport: FakeTransport, updated_once: dict[str, bytes]
) -> None:
    registry.publish(V2)
    transport.requests.clear()
    transport.faults = {4: lambda url, data: served(url, None)}
    with pytest.raises(Unreachable):
        vehicle.resolved(counter_floor=1)
    assert transport.requests[4].endswith("snapshot.json")
    transport.faults = {}
    registry.store.files["timestamp.json"] = updated_once["timestamp.json"]
    with pytest.raises(RollbackRefused, match="timestamp"):
        vehicle.resolved(counter_floor=1)


def test_an_old_director_timestamp_is_refused(registry: Registry, vehicle: Vehicle) -> None:
    yesterday = registry.director_files[VEHICLE]["timestamp.json"]
    move_on(registry, vehicle)
    registry.director_files[VEHICLE]["timestamp.json"] = yesterday
    with pytest.raises(RollbackRefused, match="timestamp"):
        vehicle.resolved(counter_floor=2)


def test_a_new_timestamp_pointing_to_an_old_snapshot_is_refused(registry: Registry, vehicle: Vehicle) -> None:
    move_on(registry, vehicle)
    thief = Attacker(registry, Role.TIMESTAMP)

    def back(document: dict[str, Any]) -> None:
        document["version"] = 100
        document["meta"] = {"snapshot.json": {"version": 1}}

    thief.edit_image("timestamp", Role.TIMESTAMP, back)
    with pytest.raises(RollbackRefused, match="snapshot version"):
        vehicle.resolved(counter_floor=2)


@pytest.mark.parametrize("role", ["targets", f"family-{FAMILY}"])
def test_stolen_online_keys_bring_back_no_older_role(registry: Registry, vehicle: Vehicle, role: str) -> None:
    registry.publish(artifact("1.0.0", 1, family="other"))
    move_on(registry, vehicle)
    thief = Attacker(registry, Role.SNAPSHOT, Role.TIMESTAMP)
    name = f"{role}.json"
    forged = int(registry.image_file("snapshot").partition(".")[0]) + 1

    def older(document: dict[str, Any]) -> None:
        document["version"] = forged
        document["meta"][name]["version"] -= 1

    snapshot = thief._edited(registry.store.files[registry.image_file("snapshot")], Role.SNAPSHOT, older)
    registry.store.files[f"{forged}.snapshot.json"] = snapshot
    thief.edit_image("timestamp", Role.TIMESTAMP, lambda d: d.update(version=100, meta={"snapshot.json": {"version": forged}}))
    with pytest.raises(RollbackRefused, match=name):
        vehicle.resolved(counter_floor=2)


def test_stolen_online_keys_hide_no_role(registry: Registry, vehicle: Vehicle) -> None:
    thief = Attacker(registry, Role.SNAPSHOT, Role.TIMESTAMP)
    forged = int(registry.image_file("snapshot").partition(".")[0]) + 1

    def without_family(document: dict[str, Any]) -> None:
        document["version"] = forged
        del document["meta"][f"family-{FAMILY}.json"]

    snapshot = thief._edited(registry.store.files[registry.image_file("snapshot")], Role.SNAPSHOT, without_family)
    registry.store.files[f"{forged}.snapshot.json"] = snapshot
    thief.edit_image("timestamp", Role.TIMESTAMP, lambda d: d.update(version=100, meta={"snapshot.json": {"version": forged}}))
    with pytest.raises(Untrusted, match="missing info"):
        vehicle.resolved()


def test_a_wiped_cache_does_not_open_the_way_back(registry: Registry, vehicle: Vehicle, updated_once: dict[str, bytes]) -> None:
    old_director = dict(registry.director_files[VEHICLE])
    move_on(registry, vehicle)
    shutil.rmtree(vehicle.directory / "image")
    shutil.rmtree(vehicle.directory / "director")
    registry.store.files = updated_once
    registry.director_files[VEHICLE] = old_director
    with pytest.raises(RollbackRefused, match="release counter"):
        vehicle.resolved(counter_floor=2)


@pytest.mark.parametrize("role", IMAGE_ROLES)
def test_an_expired_image_role_is_refused(registry: Registry, vehicle: Vehicle, role: str) -> None:
    # Signed by the true keys: the registry has stopped, or somebody keeps its newer files away.
    registry.publish(V2)
    registry.assign(V2)
    honest = Attacker(registry, *IMAGE_ROLES.values())
    if role == "root":
        forward = honest._edited(registry.store.files["1.root.json"], Role.ROOT, expired_root)
        registry.store.files["2.root.json"] = forward
    else:
        if role == "targets":
            vehicle.directory = vehicle.directory.with_name("new")
            vehicle.install(registry.roots())
        honest.edit_image(role, IMAGE_ROLES[role], expire)
    with pytest.raises(MetadataExpired, match=f"image repository: .*{role}"):
        vehicle.resolved(counter_floor=1)


@pytest.mark.parametrize("role", DIRECTOR_ROLES)
def test_an_expired_director_role_is_refused(registry: Registry, vehicle: Vehicle, role: str) -> None:
    registry.assign(V1)
    honest = Attacker(registry, *DIRECTOR_ROLES.values())
    if role == "root":
        files = registry.director_files[VEHICLE]
        files["2.root.json"] = honest._edited(files["1.root.json"], Role.DIRECTOR_ROOT, expired_root)
    else:
        honest.edit_director(role, DIRECTOR_ROLES[role], expire)
    with pytest.raises(MetadataExpired, match=f"director repository: .*{role}"):
        vehicle.resolved(counter_floor=1)


def test_frozen_metadata_is_noticed_after_a_day_and_forgiven_when_it_thaws(registry: Registry, vehicle: Vehicle) -> None:
    registry.clock.advance(hours=25)
    with pytest.raises(MetadataExpired, match="timestamp"):
        vehicle.resolved(counter_floor=1)

    registry.image.refresh()
    registry.assign(V1)
    assert vehicle.resolved(counter_floor=1) == "1.0.0"


def test_a_clock_that_fell_back_to_1970_makes_no_stale_metadata_good(registry: Registry, vehicle: Vehicle) -> None:
    registry.clock.advance(days=5)
    registry.image.refresh()
    registry.assign(V1)
    assert vehicle.resolved() == "1.0.0"
    # The vehicle loses its caches and its clock, not the time it trusts, and is shown what was good five days ago.
    shutil.rmtree(vehicle.directory / "image")
    shutil.rmtree(vehicle.directory / "director")
    registry.clock.now = NOON
    stale = Registry(registry.keyring, registry.clock)
    stale.publish(V1)
    stale.assign(V1)
    registry.store.files, registry.director_files = stale.store.files, stale.director_files
    vehicle.clock.now = EPOCH
    with pytest.raises(MetadataExpired):
        vehicle.resolved(counter_floor=1)


def test_a_new_vehicle_without_a_clock_is_no_older_than_its_program(registry: Registry, vehicle: Vehicle) -> None:
    vehicle.directory = vehicle.directory.with_name("new")
    vehicle.install(registry.roots())
    vehicle.clock.now = EPOCH
    vehicle.build_time = NOON + timedelta(days=2)
    with pytest.raises(MetadataExpired, match="timestamp"):
        vehicle.resolved()


def test_a_clock_in_2050_stops_updates_until_it_is_mended(registry: Registry, vehicle: Vehicle) -> None:
    vehicle.clock.now = FAR_FUTURE
    with pytest.raises(MetadataExpired, match="clock") as refused:
        vehicle.resolved(counter_floor=1)
    assert "2050-01-01" in str(refused.value)
    vehicle.clock.now = NOON
    assert vehicle.resolved(counter_floor=1) == "1.0.0", "the wrong time was not taken for trusted"


def test_a_clock_that_jumps_back_is_held_by_the_last_trusted_time(registry: Registry, vehicle: Vehicle) -> None:
    registry.clock.advance(hours=20)
    assert vehicle.resolved(counter_floor=1) == "1.0.0"
    vehicle.clock.now = NOON - timedelta(days=9)
    assert vehicle.resolved(counter_floor=1) == "1.0.0"
    trusted = vehicle.boot()._trusted_time.read()
    assert trusted == NOON + timedelta(hours=20)
