"""What vehicles fetch: artifacts with Range, image metadata, and director metadata whose versions only grow."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient

from model_registry.storage.filesystem import FilesystemStore
from model_registry.trust.director import Director
from model_registry.trust.keys import Keyring
from server.api.repository import MetadataCache
from server.app import create_app
from server.bootstrap import Registry, StoredMetadata, utc_now
from server.errors import NotFound
from server.services import directing
from server.tables import VehicleState
from tests.server.fleet import SimulatedVehicle, add_vehicle, add_version, enrolled, installed
from tests.server.test_device_api import start_rollout

ARTIFACT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(ARTIFACT).hexdigest()
TARGET = f"/repo/image/targets/models/signs/{SHA256}.1.0.0.dfm"


class TestArtifacts:
    @pytest.fixture(autouse=True)
    def stored(self, registry: Registry) -> None:
        registry.store.put(f"artifacts/{SHA256}", ARTIFACT, sha256=SHA256, size_bytes=len(ARTIFACT))

    def test_an_artifact_is_found_under_the_name_that_carries_its_digest(self, anonymous: httpx2.Client) -> None:
        answer = anonymous.get(TARGET)
        assert answer.content == ARTIFACT
        assert "immutable" in answer.headers["cache-control"]
        assert anonymous.get(TARGET.replace("models", "deltas").replace(".dfm", ".dfd")).content == ARTIFACT

    @pytest.mark.parametrize(
        ("asked", "status", "body"),
        [
            ("bytes=0-9", 206, ARTIFACT[:10]),
            ("bytes=10000-", 206, ARTIFACT[10000:]),
            ("bytes=-5", 206, ARTIFACT[-5:]),
            ("bytes=10240-", 416, None),
            ("bytes=9-1", 400, None),
        ],
    )
    def test_parts_of_it_are_sent_on_request(
        self, anonymous: httpx2.Client, asked: str, status: int, body: bytes | None
    ) -> None:
        answer = anonymous.get(TARGET, headers={"Range": asked})
        assert answer.status_code == status
        if body is not None:
            assert answer.content == body

    @pytest.mark.parametrize(
        "path",
        [
            f"models/signs/{'0' * 64}.1.0.0.dfm",
            f"models/signs/{SHA256[:-1]}.1.0.0.dfm",
            "models/signs/1.0.0.dfm",
            f"models/../signs/{SHA256}.x",
            f"models/signs/..%2f{SHA256}.x",
            "../../../operator-token",
            "..%2f..%2f..%2foperator-token",
            f"uploads/signs/{SHA256}.x",
            "",
        ],
    )
    def test_nothing_else_is_found(self, anonymous: httpx2.Client, path: str) -> None:
        assert anonymous.get(f"/repo/image/targets/{path}").status_code == 404

    def test_a_store_with_addresses_is_pointed_to(self, registry: Registry) -> None:
        class Elsewhere(FilesystemStore):
            def url(self, key: str, *, expires_s: int) -> str | None:
                return f"https://cdn.example/{key}?for={expires_s}"

        pointing = replace(registry, store=Elsewhere(registry.settings.files_directory))
        with TestClient(create_app(registry.settings, pointing)) as client:
            answer = client.get(TARGET, follow_redirects=False)
        assert answer.status_code == 307
        assert answer.headers["location"] == f"https://cdn.example/artifacts/{SHA256}?for=900"
        assert answer.headers["cache-control"] == "no-store"


class TestImageMetadata:
    def test_numbered_files_are_for_ever_and_the_timestamp_is_not(self, anonymous: httpx2.Client) -> None:
        timestamp = anonymous.get("/repo/image/metadata/timestamp.json")
        assert (timestamp.status_code, timestamp.headers["cache-control"]) == (200, "no-cache")
        for name in ("1.root.json", "1.snapshot.json", "1.targets.json"):
            assert "immutable" in anonymous.get(f"/repo/image/metadata/{name}").headers["cache-control"]

    @pytest.mark.parametrize("name", ["2.root.json", "root.json", "0.root.json", "..%2f1.root.json", "x", "1.root.json%00"])
    def test_nothing_else_is_found(self, anonymous: httpx2.Client, name: str) -> None:
        assert anonymous.get(f"/repo/image/metadata/{name}").status_code == 404

    def test_the_next_root_that_is_not_there_costs_vehicles_no_bytes(self, anonymous: httpx2.Client) -> None:
        assert anonymous.get("/repo/image/metadata/2.root.json").content == b""

    def test_memory_is_bounded_and_forgets_the_timestamp(self, tmp_path: Path) -> None:
        now = [0.0]
        stored = StoredMetadata(FilesystemStore(tmp_path))
        cache = MetadataCache(stored, clock=lambda: now[0], capacity=2)
        for name in ("1.a.json", "2.a.json", "3.a.json", "timestamp.json"):
            stored.write(name, b"old")
            assert cache.read(name) == b"old"
            stored.write(name, b"new")
        assert cache.read("3.a.json") == cache.read("timestamp.json") == b"old"
        assert cache.read("1.a.json") == b"new", "it was crowded out"
        now[0] = 2.0
        assert cache.read("timestamp.json") == b"new"
        assert cache.read("9.a.json") is None


class Time:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = utc_now()

    def __call__(self) -> datetime:
        return self.now


class TestDirector:
    @pytest.fixture
    def time(self) -> Time:
        return Time()

    @pytest.fixture
    def director(self, registry: Registry, time: Time) -> Director:
        return Director(Keyring.load(registry.settings.keys), time)

    def said(self, registry: Registry, director: Director, time: Time, vehicle_id: str = "car-1") -> tuple[int, list[str]]:
        """Version and targets of what the director says now."""
        files = directing.current_files(registry.database, director, vehicle_id, time())
        timestamp: dict[str, Any] = json.loads(files["timestamp.json"])["signed"]
        version = int(timestamp["version"])
        targets = json.loads(files[f"{version}.targets.json"])["signed"]
        assert targets["vehicle_id"] == vehicle_id
        return version, list(targets["targets"])

    def test_it_signs_again_only_when_something_changes(self, registry: Registry, director: Director, time: Time) -> None:
        with registry.database.writing() as session:
            add_vehicle(session, "car-1")
        assert self.said(registry, director, time) == (1, [])
        assert self.said(registry, director, time) == (1, [])
        start_rollout(registry)
        assert self.said(registry, director, time) == (2, ["models/signs/2.0.0.dfm"])
        time.now += timedelta(hours=11)
        assert self.said(registry, director, time)[0] == 2
        time.now += timedelta(hours=2)
        assert self.said(registry, director, time)[0] == 3, "half of the timestamp's life is over"

    def test_processes_that_sign_at_once_agree(self, registry: Registry, director: Director, time: Time) -> None:
        with registry.database.writing() as session:
            add_vehicle(session, "car-1")

        def timestamp(_: int) -> bytes:
            return directing.current_files(registry.database, director, "car-1", time())["timestamp.json"]

        with ThreadPoolExecutor(8) as pool:
            assert len(set(pool.map(timestamp, range(16)))) == 1

    def test_a_download_under_way_finds_the_version_it_began_with(
        self, registry: Registry, director: Director, time: Time
    ) -> None:
        with registry.database.writing() as session:
            add_vehicle(session, "car-1")
        self.said(registry, director, time)

        def file(name: str) -> bytes:
            return directing.metadata_file(registry.database, director, "car-1", name, time())

        old = file("1.targets.json")
        start_rollout(registry)
        self.said(registry, director, time)
        assert file("1.targets.json") == old
        time.now += timedelta(days=1)
        self.said(registry, director, time)
        with pytest.raises(NotFound):
            file("1.targets.json")

    def test_only_accepted_vehicles_are_spoken_to(self, anonymous: httpx2.Client, registry: Registry) -> None:
        with registry.database.writing() as session:
            add_vehicle(session, "car-1")
            add_vehicle(session, "stranger", state=VehicleState.PENDING)
        path = "/repo/director/{}/metadata/{}"
        assert anonymous.get(path.format("car-1", "1.root.json")).status_code == 200
        for vehicle, name in (
            ("stranger", "timestamp.json"),
            ("nobody", "timestamp.json"),
            ("car-1", "x.json"),
            ("car-1", "9.targets.json"),
            ("car-1", "..%2f..%2fx"),
        ):
            assert anonymous.get(path.format(vehicle, name)).status_code == 404, (vehicle, name)

    def test_after_success_it_goes_on_vouching_for_the_version(self, anonymous: httpx2.Client, registry: Registry) -> None:
        car: SimulatedVehicle = enrolled(anonymous, registry)
        version = start_rollout(registry)
        car.installed = installed(version)
        car.report("1", "succeeded")
        with registry.database.reading() as session:
            assert session.get_one(type(version), version.id).state == "published"
        timestamp = anonymous.get(f"/repo/director/{car.vehicle_id}/metadata/timestamp.json").json()["signed"]
        targets = anonymous.get(f"/repo/director/{car.vehicle_id}/metadata/{timestamp['version']}.targets.json").json()
        assert list(targets["signed"]["targets"]) == ["models/signs/2.0.0.dfm"]

    def test_after_a_failure_it_vouches_for_what_runs(self, anonymous: httpx2.Client, registry: Registry) -> None:
        car = enrolled(anonymous, registry)
        with registry.database.writing() as session:
            old = add_version(session, "1.0.0")
        start_rollout(registry)
        car.installed = installed(old)
        car.report("1", "failed", code="self_test_failed")
        files = directing.current_files(registry.database, registry.director, car.vehicle_id, utc_now())
        (targets,) = (json.loads(data)["signed"] for name, data in files.items() if name.endswith(".targets.json"))
        assert list(targets["targets"]) == ["models/signs/1.0.0.dfm"]
