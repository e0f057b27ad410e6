"""New keys for old: vehicles walk from the root they embed to the newest one, and nobody else's root is on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from model_registry.contract.errors import MetadataExpired, RollbackRefused, Untrusted
from model_registry.trust.image_repository import ImageRepository
from model_registry.trust.keys import Keyring, KeyringRefused, Role, init_keys
from tests.trust.world import V1, V2, VEHICLE, Attacker, FakeTransport, Registry, Vehicle, delta, via


@pytest.fixture(autouse=True)
def resolved_once(registry: Registry, vehicle: Vehicle) -> None:
    registry.publish(V1)
    registry.assign(V1)
    assert vehicle.resolved() == "1.0.0"


@pytest.fixture
def rotate(registry: Registry, key_directory: Path, tmp_path: Path) -> Any:
    """Give roles new keys in keys.json, beside the former ones if ``beside``, and start the registry anew on them."""

    def rotated(*roles: Role, beside: bool = False, name: str = "new") -> None:
        init_keys(tmp_path / name)
        document = json.loads((key_directory / "keys.json").read_bytes())
        fresh = json.loads((tmp_path / name / "keys.json").read_bytes())["roles"]
        for role in roles:
            key = {**fresh[role.value]["keys"][0], "uri": f"file2:{tmp_path / name / role.value}.pem"}
            document["roles"][role.value]["keys"] = [key, *(document["roles"][role.value]["keys"] if beside else [])]
        (key_directory / "keys.json").write_text(json.dumps(document))
        registry.keyring = Keyring.load(key_directory)
        registry.image = ImageRepository(registry.store, registry.keyring, registry.clock)
        registry.director = type(registry.director)(registry.keyring, registry.clock)

    return rotated


ONLINE = (Role.TIMESTAMP, Role.SNAPSHOT, Role.DIRECTOR_TARGETS, Role.DIRECTOR_SNAPSHOT, Role.DIRECTOR_TIMESTAMP)


def test_stolen_online_keys_are_replaced_by_one_refresh(registry: Registry, vehicle: Vehicle, rotate: Any) -> None:
    rotate(*ONLINE)
    assert registry.image.refresh().signed == ("snapshot", "timestamp")
    registry.assign(V1)
    assert vehicle.resolved(counter_floor=1) == "1.0.0"
    assert registry.store.read("2.root.json")
    assert "2.root.json" in registry.director_files[VEHICLE]
    registry.publish(V2)
    registry.assign(V2)
    assert vehicle.resolved(counter_floor=1) == "2.0.0"


def test_metadata_signed_by_a_replaced_key_is_refused(registry: Registry, vehicle: Vehicle, rotate: Any) -> None:
    thief = Attacker(registry, Role.TIMESTAMP)
    former = registry.keyring.signers(Role.TIMESTAMP)
    rotate(*ONLINE)
    registry.image.refresh()
    registry.assign(V1)
    assert vehicle.resolved(counter_floor=1) == "1.0.0"
    thief._signers = lambda key: former  # type: ignore[method-assign]
    thief.edit_image("timestamp", Role.TIMESTAMP, lambda document: document.update(version=50))
    with pytest.raises(Untrusted):
        vehicle.resolved(counter_floor=1)


def test_version_numbers_run_up_with_stolen_keys_are_forgotten_with_those_keys(
    registry: Registry, vehicle: Vehicle, rotate: Any
) -> None:
    honest = dict(registry.store.files), dict(registry.director_files[VEHICLE])
    thief = Attacker(registry, Role.TIMESTAMP, Role.DIRECTOR_TIMESTAMP)
    thief.edit_image("timestamp", Role.TIMESTAMP, lambda document: document.update(version=10**6))
    thief.edit_director("timestamp", Role.DIRECTOR_TIMESTAMP, lambda document: document.update(version=10**6))
    assert vehicle.resolved(counter_floor=1) == "1.0.0", "nothing but the number is wrong"
    registry.store.files, registry.director_files[VEHICLE] = honest
    registry.publish(V2)
    registry.assign(V2)
    with pytest.raises(RollbackRefused):
        vehicle.resolved(counter_floor=1)

    rotate(*ONLINE)
    registry.image.refresh()
    registry.assign(V2)
    assert vehicle.resolved(counter_floor=1) == "2.0.0"


@pytest.mark.parametrize("roles", [(Role.TARGETS,), (Role.FAMILY,), (Role.DELTA,), (Role.TARGETS, Role.FAMILY, Role.DELTA)])
def test_release_keys_are_replaced_too(registry: Registry, vehicle: Vehicle, rotate: Any, roles: tuple[Role, ...]) -> None:
    path = registry.publish_delta(delta(V1, V2))
    former = [registry.keyring.public_keys(role)[0].keyid for role in roles]
    rotate(*roles)
    registry.image.refresh()
    assert registry.image.refresh().signed == ()
    assert not [keyid for keyid in former if keyid.encode() in registry.store.files[registry.image_file("targets")]]
    registry.publish(V2)
    registry.assign(V2)
    repositories = vehicle.boot()
    assert repositories.resolve(counter_floor=1) is not None
    repositories.chain(via(path, V2), base_sha256=V1.target.content_sha256)


def test_a_root_key_is_replaced_in_two_steps(registry: Registry, vehicle: Vehicle, rotate: Any) -> None:
    rotate(Role.ROOT, Role.DIRECTOR_ROOT, beside=True)
    registry.image.refresh()
    registry.assign(V1)
    document = json.loads((registry.keyring.directory / "keys.json").read_bytes())
    for role in ("root", "director-root"):
        del document["roles"][role]["keys"][1]
    (registry.keyring.directory / "keys.json").write_text(json.dumps(document))
    rotate()
    registry.image.refresh()
    registry.assign(V1)
    assert registry.store.read("3.root.json")
    assert vehicle.resolved(counter_floor=1) == "1.0.0", "from root 1 over 2 to 3"


def test_a_root_key_replaced_in_one_step_is_refused_before_vehicles_are_lost(registry: Registry, rotate: Any) -> None:
    rotate(Role.ROOT)
    with pytest.raises(KeyringRefused, match="former root keys"):
        registry.image.refresh()
    assert registry.store.read("2.root.json") is None


def test_a_root_that_skips_a_version_is_refused(registry: Registry, vehicle: Vehicle) -> None:
    honest = Attacker(registry, Role.ROOT)
    registry.store.files["2.root.json"] = honest._edited(
        registry.store.files["1.root.json"], Role.ROOT, lambda document: document.update(version=3)
    )
    with pytest.raises(Untrusted, match="version 2"):
        vehicle.resolved()


def test_a_vehicle_asleep_for_years_walks_all_the_way(registry: Registry, vehicle: Vehicle, transport: FakeTransport) -> None:
    for _ in range(8):
        registry.clock.advance(days=200)
        registry.image.refresh()
        registry.director = type(registry.director)(registry.keyring, registry.clock)
        registry.assign(V1)
    transport.requests.clear()
    assert vehicle.resolved(counter_floor=1) == "1.0.0"
    assert len([path for path in transport.requests if "root.json" in path]) == 2 * (8 + 1)
    transport.requests.clear()
    assert vehicle.resolved(counter_floor=1) == "1.0.0"
    assert len([path for path in transport.requests if "root.json" in path]) == 2, "roots are remembered"


def test_a_walk_that_is_interrupted_goes_on_where_it_stopped(
    registry: Registry, vehicle: Vehicle, transport: FakeTransport
) -> None:
    for _ in range(6):
        registry.clock.advance(days=200)
        registry.image.refresh()
        registry.assign(V1)
    transport.requests.clear()
    transport.faults = {3: lambda url, data: iter([b"{"])}
    with pytest.raises(Untrusted):
        vehicle.resolved(counter_floor=1)
    transport.requests.clear()
    transport.faults = {}
    assert vehicle.resolved(counter_floor=1) == "1.0.0"
    assert transport.requests[0].endswith("5.root.json")


def test_an_embedded_root_that_has_expired_still_leads_to_the_newest(registry: Registry, vehicle: Vehicle) -> None:
    registry.clock.advance(days=400)
    registry.image.refresh()
    registry.assign(V1)
    vehicle.directory = vehicle.directory.with_name("from-the-shelf")
    assert vehicle.install(registry.roots()).resolved() == "1.0.0"


def test_a_registry_without_root_keys_runs_until_its_root_expires(registry: Registry, vehicle: Vehicle) -> None:
    for role in (Role.ROOT, Role.DIRECTOR_ROOT):
        (registry.keyring.directory / f"{role.value}.pem").unlink()
    registry.keyring = Keyring.load(registry.keyring.directory)
    registry.image = ImageRepository(registry.store, registry.keyring, registry.clock)
    registry.clock.advance(days=364)
    registry.image.refresh()
    registry.assign(V1)
    assert vehicle.resolved(counter_floor=1) == "1.0.0"
    registry.clock.advance(days=2)
    registry.image.refresh()
    registry.assign(V1)
    with pytest.raises(MetadataExpired, match="root"):
        vehicle.resolved(counter_floor=1)


@pytest.mark.parametrize("role", [Role.FAMILY, Role.DELTA])
def test_what_leaves_after_a_rotation_leaves_the_metadata_whole(
    registry: Registry, vehicle: Vehicle, rotate: Any, role: Role
) -> None:
    """Before anything was signed again: a role's file that its own delegation refuses could never be built upon."""
    registry.publish(V2)
    path = registry.publish_delta(delta(V1, V2))
    registry.assign(V2)
    rotate(role)
    registry.image.retire([V1.target.path if role is Role.FAMILY else path])
    assert vehicle.resolved(counter_floor=1) == "2.0.0"
    registry.image.refresh()
    assert vehicle.resolved(counter_floor=1) == "2.0.0"


def test_a_process_with_the_keys_of_before_leaves_the_metadata_whole(registry: Registry, vehicle: Vehicle, rotate: Any) -> None:
    registry.publish(V2)
    registry.assign(V2)
    before = registry.image
    rotate(Role.FAMILY)
    registry.image.refresh()
    before.retire([V1.target.path])
    registry.image.refresh()
    assert vehicle.resolved(counter_floor=1) == "2.0.0"


def test_a_role_is_never_signed_by_a_key_that_its_delegation_refuses(
    registry: Registry, rotate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotate(Role.FAMILY)
    edition = dict(registry.store.files)
    monkeypatch.setattr(ImageRepository, "_delegate", lambda *_: None)
    with pytest.raises(KeyringRefused, match="newest key directory"):
        registry.image.retire([V1.target.path])
    assert registry.store.files == edition
