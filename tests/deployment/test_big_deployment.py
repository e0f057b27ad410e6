"""The registry outgrown one machine: two API processes, a worker, PostgreSQL, an S3 store, a balancer, real vehicles."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from mypy_boto3_s3 import S3Client

from model_registry.contract.content import Content
from model_registry.contract.full import decode_full
from model_registry.models.evaluation import pictures, read_picture, spread, torch_engine
from model_registry.models.importing import Format, import_file
from model_registry.models.safetensors_file import write_safetensors
from tests.daemons import wait_until
from tests.deployment.big_registry import BigRegistry, big_registry
from tests.deployment.networks import checkpoint, retrained, untrained
from tests.deployment.test_compose import haproxy
from tests.reference import DEEP_COMPRESSION, IMAGENET_SAMPLE
from tests.services import fresh_bucket, fresh_database, require_programs

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]

ARCHITECTURE, CLASSES = "squeezenet1_1", 12
PICTURES = 40


@pytest.fixture(scope="module")
def registry(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: str, s3_server: dict[str, str], s3_administrator: S3Client
) -> Iterator[BigRegistry]:
    require_programs(haproxy=haproxy())
    store = fresh_bucket(s3_server, s3_administrator)
    with (
        fresh_database(postgres_server) as database_url,
        big_registry(tmp_path_factory.mktemp("big"), database_url, store) as running,
    ):
        yield running


def full_artifact(registry: BigRegistry, version: dict[str, str]) -> httpx2.Response:
    """The first answer to a vehicle that asks for the full artifact; redirects are not followed."""
    path = f"models/{version['family']}/{version['full_sha256']}.{version['version']}.dfm"
    return registry.client.get(f"/repo/image/targets/{path}", headers={"Authorization": ""}, follow_redirects=False)


def test_an_update_reaches_every_vehicle_though_an_api_process_is_killed(registry: BigRegistry) -> None:
    registry.ask("PUT", "/api/v1/families/signs", json={"hardware_id": "camera"})
    first = untrained(ARCHITECTURE, CLASSES, seed=1)
    published = registry.publish("signs", "1.0.0", checkpoint(ARCHITECTURE, first, CLASSES))
    vehicles = [registry.enrol(f"car-{n}", "signs", "camera") for n in (1, 2)]
    finished = registry.wait_for_rollout(registry.start_rollout("signs", "1.0.0", [100]))
    assert (finished["state"], finished["succeeded"]) == ("finished", 2)

    redirect = full_artifact(registry, published)
    assert redirect.status_code == 307
    assert redirect.headers["Location"].startswith(registry.url), "vehicles need to reach one address only"
    fetched = httpx2.get(redirect.headers["Location"], timeout=10).content
    assert hashlib.sha256(fetched).hexdigest() == published["full_sha256"]

    version = registry.publish("signs", "2.0.0", checkpoint(ARCHITECTURE, retrained(first, seed=2), CLASSES))
    rollout = registry.start_rollout("signs", "2.0.0", [50, 100])
    wait_until(
        lambda: registry.ask("GET", f"/api/v1/rollouts/{rollout}")["waves"][0]["state"] != "waiting",
        deadline_s=30,
        what="the first wave",
    )
    registry.api["api-1"].kill()
    finished = registry.wait_for_rollout(rollout)

    assert not registry.api["api-1"].running
    assert (finished["state"], finished["succeeded"], finished["failed"]) == ("finished", 2, 0)
    assert [vehicle.status()["installed"]["version"] for vehicle in vehicles] == ["2.0.0", "2.0.0"]
    (delta,) = version["deltas"]
    bill = registry.ask("GET", f"/api/v1/rollouts/{rollout}/bandwidth")
    assert bill["received"]["full"] == 0
    assert bill["received"]["delta"] == 2 * delta["bytes"]


@pytest.mark.reference_data
def test_a_real_network_answers_on_vehicles_as_in_torch(registry: BigRegistry, reference_data: Path, tmp_path: Path) -> None:
    original = import_file(DEEP_COMPRESSION, Format.DEEP_COMPRESSION)
    registry.ask("PUT", "/api/v1/families/imagenet", json={"hardware_id": "camera"})
    version = registry.publish("imagenet", "1.0.0", write_safetensors(original.weights, original.description))
    assert version["full_bytes"] <= 520_000
    vehicle = registry.enrol("car-imagenet", "imagenet", "camera")
    finished = registry.wait_for_rollout(registry.start_rollout("imagenet", "1.0.0", [100]))
    assert finished["state"] == "finished"

    sample = spread(pictures(IMAGENET_SAMPLE), PICTURES)
    content = decode_full(httpx2.get(full_artifact(registry, version).headers["Location"], timeout=30).content)
    assert content.sha256 == version["content_sha256"]
    assert vehicle.classify(sample) == in_torch(content, sample)


def in_torch(content: Content, sample: list[Path]) -> list[list[int]]:
    """The five best classes of each picture, by the reference engine on the published weights."""
    preprocessing = content.manifest.preprocessing
    assert preprocessing
    engine = torch_engine(content.manifest.architecture, content.weights())
    logits = [engine(preprocessing.apply(read_picture(path))) for path in sample]
    return [[int(index) for index in (-row).argsort(kind="stable")[:5]] for row in logits]


def test_an_api_process_cannot_sign_a_release(registry: BigRegistry) -> None:
    shares = registry.folder / "keys"
    held = {name: {path.stem for path in (shares / name).glob("*.pem")} for name in ("api", "worker", "roots")}
    assert held["api"] == {"director-targets", "director-snapshot", "director-timestamp"}
    assert held["worker"] == {"targets", "family", "delta", "snapshot", "timestamp"}
    assert held["roots"] == set()


def test_the_balancer_keeps_inside_what_belongs_inside(registry: BigRegistry) -> None:
    assert registry.client.get("/metrics").status_code == 404
    assert httpx2.get(f"{registry.url}/{registry.bucket}/").status_code == 403
    assert httpx2.put(f"{registry.url}/{registry.bucket}/intruder", content=b"x").status_code == 405
