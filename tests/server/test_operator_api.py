"""The operators' API: tokens, uploads with their bounds, lists in pages, problems everywhere."""

from __future__ import annotations

import base64
import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient
from sqlalchemy.exc import OperationalError

from server.app import create_app
from server.bootstrap import Registry, build, operator_token
from tests.server.conftest import settings_in
from tests.server.fleet import add_vehicle, add_version
from tests.server.models import onnx_file
from tests.server.test_device_api import code_of

GOOD = onnx_file()


def send(client: httpx2.Client, content: Any = GOOD, **headers: str) -> httpx2.Response:
    return client.post("/api/v1/uploads", content=content, headers=headers)


def stored(registry: Registry) -> list[Path]:
    folder = registry.settings.files_directory / "uploads"
    return list(folder.iterdir()) if folder.exists() else []


class TestToken:
    DOORS = (
        ("GET", "/api/v1/families"),
        ("PUT", "/api/v1/families/x"),
        ("POST", "/api/v1/uploads"),
        ("GET", "/api/v1/families/x/versions"),
        ("POST", "/api/v1/families/x/versions"),
        ("GET", "/api/v1/families/x/graph"),
        ("POST", "/api/v1/families/x/deltas/retire"),
        ("DELETE", "/api/v1/families/x/deltas/1.0.0/2.0.0"),
        ("GET", "/api/v1/jobs/1"),
        ("POST", "/api/v1/enrolment-tokens"),
        ("GET", "/api/v1/vehicles"),
        ("GET", "/api/v1/vehicles/x"),
        ("POST", "/api/v1/vehicles/x/accept"),
        ("GET", "/api/v1/rollouts"),
        ("POST", "/api/v1/rollouts"),
        ("POST", "/api/v1/rollouts/1/start"),
        ("GET", "/api/v1/rollouts/1/bandwidth"),
    )

    @pytest.mark.parametrize("header", [None, "Bearer wrong", "Basic eDp5", "Bearer ", "Bearer \u00e4"])
    def test_no_operator_door_opens_without_it(self, anonymous: httpx2.Client, header: str | None) -> None:
        headers = {"Authorization": header.encode()} if header else {}
        for method, path in self.DOORS:
            answer = anonymous.request(method, path, headers=headers)  # type: ignore[arg-type]
            assert code_of(answer, 401) == "unauthorized", path
            assert answer.headers["www-authenticate"] == "Bearer"

    def test_every_operator_door_is_in_that_list(self, anonymous: httpx2.Client) -> None:
        paths = anonymous.get("/openapi.json").json()["paths"]
        for path, methods in paths.items():
            for operation in methods.values():
                assert path.startswith(("/repo/", "/device/")) or operation.get("security"), path


class TestUploads:
    def test_a_file_is_kept_under_its_digest(self, operator: httpx2.Client, registry: Registry) -> None:
        answer = send(operator)
        assert answer.status_code == 201
        assert answer.json()["sha256"] == hashlib.sha256(GOOD).hexdigest()
        assert [path.read_bytes() for path in stored(registry)] == [GOOD]

    def test_a_digest_is_checked(self, operator: httpx2.Client, registry: Registry) -> None:
        right = base64.b64encode(hashlib.sha256(GOOD).digest()).decode()
        wrong = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
        assert send(operator, Digest=f"sha-256={right}").status_code == 201
        assert send(operator, **{"Content-Digest": f"sha-256=:{right}:"}).status_code == 201
        assert code_of(send(operator, Digest=f"sha-256={wrong}"), 422) == "content_mismatch"
        assert len(stored(registry)) == 2

    def test_its_length_must_be_announced(self, operator: httpx2.Client) -> None:
        assert code_of(send(operator, iter([GOOD])), 411) == "length_required"

    @pytest.mark.parametrize(
        ("content", "code"),
        [
            (b"", "request_invalid"),
            (b"not a model", "artifact_unsupported"),
            (b"DFM1", "artifact_malformed"),
            (b"DFD1" + bytes(80), "artifact_unsupported"),
            (b"PK\x03\x04" + bytes(80), "artifact_unsupported"),
        ],
        ids=["empty", "text", "cut", "delta", "zip"],
    )
    def test_what_is_no_model_is_refused_at_once(
        self, operator: httpx2.Client, registry: Registry, content: bytes, code: str
    ) -> None:
        assert code_of(send(operator, content), 422) == code
        assert not stored(registry)
        assert not list(registry.settings.scratch_directory.iterdir())

    def test_a_file_above_the_limit_is_refused_before_and_while_it_comes(self, data: Path) -> None:
        registry = build(settings_in(data, max_upload_bytes=5000))
        with TestClient(create_app(registry.settings, registry)) as client:
            client.headers["Authorization"] = f"Bearer {operator_token(registry.settings)}"
            assert code_of(send(client, b"\x08" * 5001), 413) == "body_too_large"
            lying = send(client, iter([b"\x08" * 4000] * 2), **{"Content-Length": "4000"})
            assert lying.status_code == 413
            assert send(client, GOOD + bytes(5000 - len(GOOD))).status_code == 201
            assert len(stored(registry)) == 1

    def test_other_bodies_have_their_own_limit(self, operator: httpx2.Client, registry: Registry) -> None:
        big = b'{"hardware_id": "' + b"x" * registry.settings.max_body_bytes + b'"}'
        assert code_of(operator.put("/api/v1/families/signs", content=big), 413) == "body_too_large"


class TestPublishing:
    @pytest.fixture
    def upload_id(self, operator: httpx2.Client) -> str:
        operator.put("/api/v1/families/signs", json={"hardware_id": "generic"})
        return str(send(operator).json()["upload_id"])

    def publish(self, client: httpx2.Client, upload_id: str, **changes: Any) -> httpx2.Response:
        return client.post("/api/v1/families/signs/versions", json={"version": "1.0.0", "upload_id": upload_id, **changes})

    def test_a_version_is_taken_and_shows_its_job(self, operator: httpx2.Client, upload_id: str) -> None:
        answers = [self.publish(operator, upload_id) for _ in range(2)]
        assert [a.status_code for a in answers] == [202, 202]
        assert answers[0].json() == answers[1].json()
        job = operator.get(f"/api/v1/jobs/{answers[0].json()['job_id']}").json()
        assert (job["kind"], job["state"], job["progress"], job["error"]) == ("compress", "queued", 0.0, None)
        shown = operator.get("/api/v1/families/signs/versions/1.0.0").json()
        assert (shown["state"], shown["release_counter"], shown["deltas"]) == ("processing", 1, [])

    @pytest.mark.parametrize(
        "changes",
        [
            {"version": "one"},
            {"version": 1},
            {"recipe": {"architecture": "../x"}},
            {"recipe": {"colour": "red"}},
            {"recipe": {"preprocessing": {"resize": [0, 0]}}},
            {"recipe": []},
            {"surprise": True},
            {"version": None},
        ],
    )
    def test_a_request_that_makes_no_sense_is_refused(
        self, operator: httpx2.Client, upload_id: str, changes: dict[str, Any]
    ) -> None:
        assert code_of(self.publish(operator, upload_id, **changes), 422) in ("request_invalid", "manifest_invalid")
        assert operator.get("/api/v1/families/signs/versions").json()["items"] == []

    def test_a_recipe_spelled_out_is_the_same_recipe(self, operator: httpx2.Client, upload_id: str) -> None:
        short = self.publish(operator, upload_id, recipe={})
        long = self.publish(operator, upload_id, recipe={"lossless": False, "labels": [], "architecture": None})
        assert short.json() == long.json()

    def test_what_is_not_there_is_not_found(self, operator: httpx2.Client, upload_id: str) -> None:
        assert code_of(self.publish(operator, "0" * 32), 404) == "not_found"
        for path in ("jobs/77", "families/none/versions", "families/signs/versions/9.9.9", "vehicles/none", "rollouts/7"):
            assert code_of(operator.get(f"/api/v1/{path}"), 404) == "not_found", path
        assert code_of(operator.get("/nowhere"), 404) == "http_404"

    def test_a_malformed_body_is_told_as_a_problem(self, operator: httpx2.Client) -> None:
        for body in (b"{", b"\xff", b"[1]", b""):
            assert code_of(operator.put("/api/v1/families/signs", content=body), 422) == "request_invalid"


class TestLists:
    def test_pages_follow_each_other_to_the_end(self, operator: httpx2.Client, registry: Registry) -> None:
        with registry.database.writing() as session:
            for n in range(7):
                add_version(session, f"1.{n}.0")
                add_vehicle(session, f"car-{n}")
        assert self.walk(operator, "/api/v1/vehicles", "id") == [f"car-{n}" for n in range(7)]
        newest_first = [f"1.{n}.0" for n in reversed(range(7))]
        assert self.walk(operator, "/api/v1/families/signs/versions", "version") == newest_first
        for n in range(5):
            operator.post("/api/v1/rollouts", json={"family": "signs", "version": f"1.{n}.0"})
        assert self.walk(operator, "/api/v1/rollouts", "id") == [5, 4, 3, 2, 1]

    def walk(self, client: httpx2.Client, path: str, key: str) -> list[Any]:
        found, cursor = [], None
        while True:
            page = client.get(path, params={"limit": 3} | ({"cursor": cursor} if cursor else {})).json()
            assert len(page["items"]) <= 3
            found += [item[key] for item in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                return found

    @pytest.mark.parametrize("cursor", ["!", "\u00e4", "AA", "_____w", "x" * 300])
    def test_a_made_up_cursor_is_refused(self, operator: httpx2.Client, cursor: str) -> None:
        for path in ("/api/v1/rollouts", "/api/v1/vehicles"):
            answer = operator.get(path, params={"cursor": cursor})
            assert answer.status_code == 422 or (path.endswith("vehicles") and answer.json()["items"] == [])

    @pytest.mark.parametrize("limit", ["0", "-1", "1001", "x"])
    def test_limits_have_limits(self, operator: httpx2.Client, limit: str) -> None:
        assert code_of(operator.get("/api/v1/vehicles", params={"limit": limit}), 422) == "request_invalid"


class TestRollouts:
    @pytest.fixture
    def version(self, registry: Registry) -> str:
        with registry.database.writing() as session:
            add_vehicle(session, "car-1")
            return add_version(session, "1.0.0").version

    def test_a_rollout_says_what_it_understands(self, operator: httpx2.Client, version: str) -> None:
        made = operator.post("/api/v1/rollouts", json={"family": "signs", "version": version})
        assert made.status_code == 201
        assert (made.json()["state"], made.json()["actions"]) == ("draft", ["start", "abort"])
        assert [w["percent"] for w in made.json()["waves"]] == [25, 50, 100]
        assert operator.post("/api/v1/rollouts/1/start").json()["actions"] == ["pause", "abort"]
        assert code_of(operator.post("/api/v1/rollouts/1/start"), 409) == "wrong_state"
        assert code_of(operator.post("/api/v1/rollouts/1/halt"), 404) == "not_found"
        assert operator.post("/api/v1/rollouts/1/abort").json()["state"] == "aborted"

    @pytest.mark.parametrize(
        "changes",
        [
            {"waves": []},
            {"waves": [50, 25]},
            {"waves": [0, 100]},
            {"waves": [101]},
            {"waves": ["25"]},
            {"error_threshold_percent": 101},
            {"success_threshold_percent": -1},
            {"min_executed": 0},
            {"min_executed": 1.5},
        ],
    )
    def test_a_plan_that_makes_no_sense_is_refused(
        self, operator: httpx2.Client, version: str, changes: dict[str, Any]
    ) -> None:
        answer = operator.post("/api/v1/rollouts", json={"family": "signs", "version": version} | changes)
        assert code_of(answer, 422) == "request_invalid"

    def test_numbers_that_json_does_not_know_are_refused(self, operator: httpx2.Client, version: str) -> None:
        body = '{"family": "signs", "version": "1.0.0", "error_threshold_percent": NaN}'
        answer = operator.post("/api/v1/rollouts", content=body, headers={"Content-Type": "application/json"})
        assert code_of(answer, 422) == "request_invalid"


class TestOperations:
    def test_it_says_whether_it_is_alive_and_ready(self, anonymous: httpx2.Client, registry: Registry) -> None:
        assert anonymous.get("/healthz").status_code == 200
        assert anonymous.get("/readyz").status_code == 200
        registry.store.delete("metadata/image/timestamp.json")
        assert code_of(anonymous.get("/readyz"), 503) == "not_ready"

    def test_its_figures_are_for_prometheus(self, anonymous: httpx2.Client, registry: Registry) -> None:
        with registry.database.writing() as session:
            add_vehicle(session, "car-1")
        text = anonymous.get("/metrics").text
        assert 'deltafleet_vehicles{state="accepted"} 1.0' in text
        assert 'deltafleet_received_bytes_total{kind="delta"} 0.0' in text

    def test_an_error_inside_tells_nothing_of_the_inside(
        self, operator: httpx2.Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: object, **__: object) -> None:
            raise RuntimeError("password=hush")

        monkeypatch.setattr("server.repositories.artifacts.families", broken)
        answer = operator.get("/api/v1/families")
        assert code_of(answer, 500) == "internal_error"
        assert "hush" not in answer.text

    def test_a_database_that_is_away_is_no_mistake_of_the_caller(
        self, operator: httpx2.Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def away(*_: object, **__: object) -> None:
            raise OperationalError("SELECT 1", {}, OSError("password=hush"))

        monkeypatch.setattr("server.repositories.artifacts.families", away)
        answer = operator.get("/api/v1/families")
        assert code_of(answer, 503) == "unreachable"
        assert answer.headers["retry-after"]
        assert "hush" not in answer.text

    def test_families_made_at_once_are_one_family(self, operator: httpx2.Client) -> None:
        def put(_: int) -> int:
            return operator.put("/api/v1/families/same", json={"hardware_id": "generic"}).status_code

        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(put, range(8))) <= {200, 201, 409}
        assert len(operator.get("/api/v1/families").json()["items"]) == 1

    def test_the_vehicles_door_is_described(self, anonymous: httpx2.Client) -> None:
        description = anonymous.get("/openapi.json").json()
        assert {"/device/v1/enroll", "/device/v1/check-in", "/device/v1/reports"} <= set(description["paths"])
        assert "Envelope" in description["components"]["schemas"]
