"""The publisher's side: idempotent, healed after a kill, renewed in time, and no oracle for whoever writes the store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Metadata

from client_agent.trust import HopUnknown
from model_registry.contract.errors import Untrusted
from model_registry.contract.targets import DeltaTarget, FullTarget
from model_registry.trust.image_repository import ImageRepository, TargetRefused
from model_registry.trust.keys import Keyring, KeyringRefused, Role, init_keys
from model_registry.trust.roots import Repository, root_chain
from tests.trust.world import (
    FAMILY,
    V1,
    V2,
    V3,
    Attacker,
    Clock,
    Killed,
    MemoryStore,
    Registry,
    Vehicle,
    artifact,
    delta,
    digest,
    via,
)


@pytest.fixture(autouse=True)
def published(registry: Registry) -> None:
    registry.publish(V1)
    registry.publish_delta(delta(artifact("0.9.0", 1), V1))
    registry.assign(V1)


def expiry(registry: Registry, role: str) -> Any:
    data = registry.store.files[registry.image_file(role)]
    return Metadata[Any].from_bytes(data).signed.expires


def test_doing_it_again_writes_nothing(registry: Registry) -> None:
    before = dict(registry.store.files)
    registry.image.initialize()
    registry.publish(V1)
    registry.publish_delta(delta(artifact("0.9.0", 1), V1))
    registry.image.retire(["deltas/signs/0000-1111.dfd", "deltas/unheard-of/0000-1111.dfd"])
    registry.image.add_deltas([])
    assert registry.image.refresh().signed == ()
    assert registry.store.files == before


def test_a_version_stands_for_one_artifact_for_ever(registry: Registry) -> None:
    with pytest.raises(TargetRefused, match="new version"):
        registry.image.add_full(V1.target, sha256=V2.sha256, length=V1.length)
    with pytest.raises(TargetRefused):
        registry.image.add_full(V1.target, sha256=V1.sha256, length=V1.length + 1)


@pytest.mark.parametrize(
    "target",
    [
        FullTarget("Bad Family", "1.0.0", digest("x"), 1, "ecu-1", 1),
        FullTarget("../etc", "1.0.0", digest("x"), 1, "ecu-1", 1),
        FullTarget("signs*", "1.0.0", digest("x"), 1, "ecu-1", 1),
        FullTarget("signs", "one", digest("x"), 1, "ecu-1", 1),
        FullTarget("signs", "9.9.9", "x", 1, "ecu-1", 1),
        FullTarget("signs", "9.9.9", digest("x"), 1, "ecu-1", 0),
        FullTarget("signs", "9.9.9", digest("x"), -1, "ecu-1", 1),
    ],
)
def test_what_no_vehicle_would_accept_is_not_signed(registry: Registry, target: FullTarget) -> None:
    before = dict(registry.store.files)
    with pytest.raises(TargetRefused):
        registry.image.add_full(target, sha256=digest("f"), length=5)
    assert registry.store.files == before


@pytest.mark.parametrize(("sha256", "length"), [("", 1), ("A" * 64, 1), (digest("f"), 0)])
def test_an_artifact_without_digest_or_bytes_is_not_signed(registry: Registry, sha256: str, length: int) -> None:
    with pytest.raises(TargetRefused):
        registry.image.add_full(V2.target, sha256=sha256, length=length)


@pytest.mark.parametrize("path", ["roots/signs/1.0.0.dfm", "deltas/../x.dfd", "models/signs/a/b.dfm", "models/signs/", ""])
def test_only_an_artifact_is_retired(registry: Registry, path: str) -> None:
    with pytest.raises(TargetRefused):
        registry.image.retire([path])


def test_a_retired_delta_is_gone_for_vehicles(registry: Registry, vehicle: Vehicle) -> None:
    base = artifact("0.9.0", 1)
    path = delta(base, V1).path
    hops = via(path, V1)
    repositories = vehicle.boot()
    repositories.resolve(counter_floor=0)
    assert repositories.chain(hops, base_sha256=base.target.content_sha256)[0].path == path
    registry.image.retire([path])
    repositories = vehicle.boot()
    repositories.resolve(counter_floor=0)
    with pytest.raises(HopUnknown):
        repositories.chain(hops, base_sha256=base.target.content_sha256)


def test_a_retired_version_is_gone_for_vehicles_until_it_is_added_again(registry: Registry, vehicle: Vehicle) -> None:
    registry.publish(V2)
    registry.image.retire([V1.target.path])
    with pytest.raises(Untrusted, match="does not know"):
        vehicle.boot().resolve(counter_floor=0)
    registry.publish(V1)
    found = vehicle.boot().resolve(counter_floor=0)
    assert found is not None
    assert found.full == V1.target


def test_a_content_that_left_while_it_was_passed_is_asked_for_again(registry: Registry, vehicle: Vehicle) -> None:
    """As a delta that left: not distrusted, which would cost a full artifact, but unknown for now."""
    base = artifact("0.9.0", 1)
    registry.publish(V2)
    registry.publish_delta(delta(V1, V2))
    registry.assign(V2)
    registry.image.retire([V1.target.path])
    repositories = vehicle.boot()
    repositories.resolve(counter_floor=0)
    with pytest.raises(HopUnknown, match=r"models/signs/1\.0\.0\.dfm"):
        repositories.chain([*via(delta(base, V1).path, V1), *via(delta(V1, V2).path, V2)], base_sha256=digest("base"))


def test_deltas_and_versions_leave_in_one_edition(registry: Registry) -> None:
    before = int(registry.image_file("snapshot").partition(".")[0])
    registry.image.retire([V1.target.path, delta(artifact("0.9.0", 1), V1).path])
    assert int(registry.image_file("snapshot").partition(".")[0]) == before + 1


def test_many_deltas_are_one_edition(registry: Registry) -> None:
    before = int(registry.image_file("snapshot").partition(".")[0])
    deltas = [(DeltaTarget(FAMILY, digest(f"{n}"), V1.target.content_sha256), digest(f"d{n}"), 9_000) for n in range(20)]
    registry.image.add_deltas(deltas)
    assert int(registry.image_file("snapshot").partition(".")[0]) == before + 1


def test_a_kill_at_any_write_leaves_the_old_edition_or_the_new_one(registry: Registry, vehicle: Vehicle) -> None:
    registry.publish(V2)
    edition = dict(registry.store.files)
    writes = len(written_by(registry, edition))
    assert writes == 5, "the family's two roles, targets, snapshot and timestamp"
    for dies_after in range(writes):
        store = MemoryStore(dict(edition), die_after=dies_after)
        registry.store = store
        registry.image = ImageRepository(store, registry.keyring, registry.clock)
        lanes = artifact("1.0.0", 1, family="lanes")
        with pytest.raises(Killed):
            registry.publish(lanes)
        registry.assign(V2)
        vehicle.directory = vehicle.directory.with_name(f"killed-{dies_after}")
        assert vehicle.install(registry.roots()).resolved() == "2.0.0", "readers still see the former edition"
        store.die_after = None
        registry.clock.advance(minutes=5)  # signed now, the same would be other bytes
        registry.publish(lanes, V3)
        registry.assign(V3)
        assert vehicle.resolved() == "3.0.0"
        by_name: dict[str, set[bytes]] = {}
        for name, data in store.written:
            by_name.setdefault(name, set()).add(data)
        assert [name for name, versions in by_name.items() if len(versions) > 1] == ["timestamp.json"]


def written_by(registry: Registry, edition: dict[str, bytes]) -> list[tuple[str, bytes]]:
    """The writes of publishing a first release of another family."""
    store = MemoryStore(dict(edition))
    lanes = artifact("1.0.0", 1, family="lanes")
    ImageRepository(store, registry.keyring, registry.clock).add_full(lanes.target, sha256=lanes.sha256, length=lanes.length)
    return store.written


def test_the_timestamp_is_written_last(registry: Registry) -> None:
    names = [name for name, _ in written_by(registry, dict(registry.store.files))]
    assert names[-2].endswith(".snapshot.json")
    assert names[-1] == "timestamp.json"


def test_a_kill_during_the_very_first_edition_is_healed(key_directory: Path, clock: Clock) -> None:
    keyring = Keyring.load(key_directory)
    for dies_after in range(3):
        store = MemoryStore({"1.root.json": root_chain(keyring, Repository.IMAGE, clock())[0]}, die_after=dies_after)
        for _ in range(3):
            store.written.clear()
            with pytest.raises(Killed):
                ImageRepository(store, keyring, clock).initialize()
        store.die_after = None
        ImageRepository(store, keyring, clock).initialize()
        assert store.read("timestamp.json")
        ImageRepository(store, keyring, clock).add_full(V1.target, sha256=V1.sha256, length=V1.length)


def test_a_missing_key_is_noticed_before_anything_is_written(registry: Registry, key_directory: Path) -> None:
    (key_directory / "timestamp.pem").unlink()
    image = ImageRepository(registry.store, Keyring.load(key_directory), registry.clock)
    before = dict(registry.store.files)
    with pytest.raises(KeyringRefused, match="timestamp"):
        image.add_full(V2.target, sha256=V2.sha256, length=V2.length)
    assert registry.store.files == before


def test_deltas_are_signed_where_no_release_key_is(registry: Registry, key_directory: Path) -> None:
    for offline in (Role.ROOT, Role.TARGETS, Role.FAMILY, Role.DIRECTOR_ROOT):
        (key_directory / f"{offline.value}.pem").unlink()
    image = ImageRepository(registry.store, Keyring.load(key_directory), registry.clock)
    image.add_deltas([(delta(V1, V2), digest("d"), 9_000)])
    assert image.refresh().signed == ()
    with pytest.raises(KeyringRefused, match="'family'"):
        image.add_full(V2.target, sha256=V2.sha256, length=V2.length)
    with pytest.raises(KeyringRefused):
        image.add_full(artifact("1.0.0", 1, family="lanes").target, sha256=digest("f"), length=5)


def test_refresh_signs_again_at_half_of_each_life(registry: Registry) -> None:
    assert registry.image.refresh().signed == ()
    registry.clock.advance(hours=13)
    assert registry.image.refresh().signed == ("timestamp",)
    registry.clock.advance(days=3)
    assert registry.image.refresh().signed == ("snapshot", "timestamp")
    registry.clock.advance(days=43)
    assert registry.image.refresh().signed == ("deltas-signs", "family-signs", "targets", "snapshot", "timestamp")
    assert registry.image.refresh().signed == ()


def test_a_registry_that_is_refreshed_serves_for_years(registry: Registry, vehicle: Vehicle) -> None:
    for _ in range(12):
        registry.clock.advance(days=40)
        assert registry.image.refresh().waiting == ()
        registry.assign(V1)
        assert vehicle.resolved(counter_floor=1) == "1.0.0"
    assert registry.store.read("3.root.json")


def test_refresh_names_what_waits_for_an_offline_key(registry: Registry, key_directory: Path) -> None:
    for offline in (Role.TARGETS, Role.FAMILY):
        (key_directory / f"{offline.value}.pem").unlink()
    image = ImageRepository(registry.store, Keyring.load(key_directory), registry.clock)
    registry.clock.advance(days=46)
    refreshed = image.refresh()
    assert refreshed.waiting == ("family-signs", "targets")
    assert refreshed.signed == ("deltas-signs", "snapshot", "timestamp")


def test_the_lifetimes_are_those_of_the_design(registry: Registry) -> None:
    days = {role: (expiry(registry, role) - registry.clock()).days for role in ("root", "targets", "family-signs", "snapshot")}
    assert days == {"root": 365, "targets": 90, "family-signs": 90, "snapshot": 7}
    assert (expiry(registry, "timestamp") - registry.clock()).days == 1


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", f"family-{FAMILY}", f"deltas-{FAMILY}"])
def test_whoever_writes_the_store_gets_nothing_signed(registry: Registry, role: str) -> None:
    Attacker(registry).edit_image(role, Role.TIMESTAMP, lambda document: document.update(expires="2037-01-01T00:00:00Z"))
    poisoned = dict(registry.store.files)
    with pytest.raises(Untrusted, match="signature"):
        registry.image.refresh()
    with pytest.raises(Untrusted, match="signature"):
        registry.publish(V2)
    assert registry.store.files == poisoned


def test_an_older_file_under_a_newer_name_is_not_built_upon(registry: Registry) -> None:
    registry.publish(V2)
    registry.store.files["2.family-signs.json"] = registry.store.files["1.family-signs.json"]
    with pytest.raises(Untrusted, match="another version"):
        registry.publish(V3)


@pytest.mark.parametrize("name", ["timestamp.json", "1.targets.json", "1.family-signs.json", "2.snapshot.json"])
def test_a_lost_file_is_named(registry: Registry, name: str) -> None:
    del registry.store.files[name]
    with pytest.raises(Untrusted, match=f"{name}.*missing"):
        registry.publish(V2)


def test_a_store_of_other_keys_is_not_touched(registry: Registry, tmp_path: Path) -> None:
    init_keys(tmp_path / "other")
    before = dict(registry.store.files)
    with pytest.raises(Untrusted, match="another key directory"):
        ImageRepository(registry.store, Keyring.load(tmp_path / "other"), registry.clock).initialize()
    assert registry.store.files == before


def test_the_director_refuses_what_no_vehicle_is_called(registry: Registry) -> None:
    for vehicle_id in ("", "../x", "car 1", "c" * 65):
        with pytest.raises(TargetRefused):
            registry.director.sign(vehicle_id, V1.offer, 1)
    with pytest.raises(TargetRefused):
        registry.director.sign("car-1", V1.offer, 0)


def test_the_director_says_when_its_first_file_expires(registry: Registry) -> None:
    signed = registry.director.sign("car-1", None, 3)
    assert (signed.expires - registry.clock()).days == 1
    assert json.loads(signed.files["3.targets.json"])["signed"]["targets"] == {}
