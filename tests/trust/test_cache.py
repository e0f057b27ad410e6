"""What lies on the vehicle's disk may be damaged, half-written or gone; trust is then fetched again, and never bricks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from client_agent.journal import write_durably
from model_registry.contract.errors import Untrusted
from tests.trust.world import NOON, V1, V2, VEHICLE, FakeTransport, Killed, Registry, Vehicle, delta, via


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garbled(path: Path) -> None:
    path.write_bytes(bytes(byte ^ 0x55 for byte in path.read_bytes()))


def bit_flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def deeply_nested(path: Path) -> None:
    path.write_bytes(b"[" * 200_000)


def removed(path: Path) -> None:
    path.unlink()


def turned_into_a_folder(path: Path) -> None:
    path.unlink()
    (path / "sub").mkdir(parents=True)


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


DAMAGES = (emptied, truncated, garbled, bit_flipped, deeply_nested, removed, turned_into_a_folder, dangling)


@pytest.fixture(autouse=True)
def resolved_once(registry: Registry, vehicle: Vehicle) -> None:
    registry.publish(V1)
    registry.assign(V1)
    assert vehicle.resolved() == "1.0.0"


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_heals_itself(registry: Registry, vehicle: Vehicle, damage: Callable[[Path], None]) -> None:
    caches = (vehicle.directory / "image", vehicle.directory / "director")
    cached = [path.relative_to(vehicle.directory) for cache in caches for path in cache.rglob("*.json")]
    assert len(cached) == 2 + 3 + 4, "both roots; timestamp, snapshot, targets twice; the family's role"
    intact = vehicle.directory.with_name("intact")
    shutil.copytree(vehicle.directory, intact)
    for path in cached:
        shutil.rmtree(vehicle.directory)
        shutil.copytree(intact, vehicle.directory)
        damage(vehicle.directory / path)
        assert vehicle.resolved(counter_floor=1) == "1.0.0", path
        assert (vehicle.directory / path).read_bytes() == (intact / path).read_bytes(), "healed on disk too"


def test_a_cached_file_of_absurd_size_is_not_read(vehicle: Vehicle) -> None:
    os.truncate(vehicle.directory / "image" / "targets.json", 2**42)
    assert vehicle.resolved(counter_floor=1) == "1.0.0"
    assert (vehicle.directory / "image" / "targets.json").stat().st_size < 5_000


@pytest.mark.parametrize("name", ["image", "director", "image.work", "director.work"])
def test_a_file_where_a_folder_should_be_is_replaced(vehicle: Vehicle, name: str) -> None:
    shutil.rmtree(vehicle.directory / name)
    (vehicle.directory / name).write_bytes(b"what?")
    assert vehicle.resolved(counter_floor=1) == "1.0.0"
    assert vehicle.resolved(counter_floor=1) == "1.0.0"


@pytest.mark.parametrize("damage", DAMAGES[:-2])
def test_a_damaged_trusted_time_is_forgotten(vehicle: Vehicle, damage: Callable[[Path], None]) -> None:
    damage(vehicle.directory / "trusted-time.json")
    assert vehicle.resolved(counter_floor=1) == "1.0.0"
    assert vehicle.boot()._trusted_time.read() == NOON


def test_a_trusted_time_from_the_far_future_cannot_come_from_a_flipped_digit(vehicle: Vehicle) -> None:
    path = vehicle.directory / "trusted-time.json"
    path.write_text(path.read_text().replace('"2027', '"9027'))
    assert vehicle.resolved(counter_floor=1) == "1.0.0"


@pytest.mark.parametrize("name", ["image-root.json", "director-root.json"])
def test_a_damaged_embedded_root_is_named(vehicle: Vehicle, name: str) -> None:
    garbled(vehicle.directory / name)
    with pytest.raises(Untrusted, match=name.partition("-")[0]):
        vehicle.resolved(counter_floor=1)
    removed(vehicle.directory / name)
    with pytest.raises(Untrusted, match="install the roots again"):
        vehicle.resolved(counter_floor=1)


def test_the_cache_saves_what_has_not_changed(registry: Registry, vehicle: Vehicle, transport: FakeTransport) -> None:
    transport.requests.clear()
    assert vehicle.resolved(counter_floor=1) == "1.0.0"
    assert [path.rpartition("/")[2] for path in transport.requests] == ["2.root.json", "timestamp.json"] * 2


def test_what_a_refused_director_said_is_not_kept(registry: Registry, vehicle: Vehicle) -> None:
    before = {p: p.read_bytes() for p in (vehicle.directory / "director").rglob("*.json")}
    registry.assign(V1, "car-2", version=77)
    registry.director_files[VEHICLE] |= registry.director_files["car-2"]
    with pytest.raises(Untrusted):
        vehicle.resolved(counter_floor=1)
    assert {p: p.read_bytes() for p in (vehicle.directory / "director").rglob("*.json")} == before


def test_the_deltas_role_is_cached_too(registry: Registry, vehicle: Vehicle, transport: FakeTransport) -> None:
    registry.publish(V2)
    path = registry.publish_delta(delta(V1, V2))
    registry.assign(V2)
    for expected in (1, 0):
        repositories = vehicle.boot()
        repositories.resolve(counter_floor=1)
        before = len(transport.requests)
        repositories.chain(via(path, V2), base_sha256=V1.target.content_sha256)
        assert len(transport.requests) - before == expected


def test_a_disk_that_refuses_says_so_and_recovers(vehicle: Vehicle, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes, **_: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    shutil.rmtree(vehicle.directory / "director")
    with monkeypatch.context() as patch:
        patch.setattr("client_agent.repositories.write_durably", full)
        with pytest.raises(OSError, match="No space"):
            vehicle.resolved(counter_floor=1)
    assert vehicle.resolved(counter_floor=1) == "1.0.0"


def test_a_power_cut_at_any_write_leaves_a_cache_that_serves(
    registry: Registry, vehicle: Vehicle, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.publish(V2)
    registry.assign(V2)
    intact = shutil.copytree(vehicle.directory, vehicle.directory.with_name("intact"))
    for writes in range(6):
        shutil.rmtree(vehicle.directory)
        shutil.copytree(intact, vehicle.directory)
        left = iter(range(writes))

        def cut_off(path: Path, data: bytes, *, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise Killed
            write_durably(path, data)

        with monkeypatch.context() as patch:
            patch.setattr("client_agent.repositories.write_durably", cut_off)
            with pytest.raises(Killed):
                vehicle.resolved(counter_floor=1)
        assert vehicle.resolved(counter_floor=1) == "2.0.0"


def test_a_time_before_our_era_of_building_is_lifted(vehicle: Vehicle) -> None:
    vehicle.clock.now = datetime(1970, 1, 1, tzinfo=UTC)
    (vehicle.directory / "trusted-time.json").unlink()
    vehicle.build_time = NOON
    assert vehicle.resolved(counter_floor=1) == "1.0.0"
    assert vehicle.boot()._trusted_time.read() == NOON
