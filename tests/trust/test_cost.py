"""What trust costs a vehicle in body bytes and requests. A limit that is passed is a decision, not an accident."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from model_registry.contract.messages import Hop
from tests.trust.world import V1, V2, V3, FakeTransport, Registry, Vehicle, artifact, delta


@dataclass
class Cost:
    requests: int
    received: int


Measure = Callable[..., Cost]


@pytest.fixture
def cost(vehicle: Vehicle, transport: FakeTransport) -> Measure:
    """Counts one resolution, with its delta if there is one."""

    def measure(base: str | None = None, path: str | None = None) -> Cost:
        requests, received = len(transport.requests), transport.received
        repositories = vehicle.boot()
        target = repositories.resolve(counter_floor=0)
        if path and base and target:
            repositories.chain([Hop(path, target.path)], base_sha256=base)
        return Cost(len(transport.requests) - requests, transport.received - received)

    return measure


def test_the_metadata_of_a_first_check_a_quiet_check_and_one_release(registry: Registry, cost: Measure) -> None:
    registry.publish(V1)
    registry.assign(V1)
    first = cost()
    assert first == Cost(9, first.received)
    assert first.received < 3_600

    quiet = cost()
    assert quiet == Cost(4, quiet.received)
    assert quiet.received < 670

    registry.publish(V2)
    path = registry.publish_delta(delta(V1, V2))
    registry.assign(V2)
    release = cost(V1.target.content_sha256, path)
    assert release == Cost(9, release.received)
    assert release.received < 3_800


def test_other_families_and_older_releases_add_little(registry: Registry, cost: Measure) -> None:
    registry.publish(V1, V2, V3, *(artifact("1.0.0", 1, family=f"family-{n}") for n in range(20)))
    registry.assign(V3)
    assert cost().received < 11_000


def test_the_directors_three_files_fit_in_one_packet(registry: Registry) -> None:
    signed = registry.director.sign("car-1", V1.offer, 1)
    files = {name: len(data) for name, data in signed.files.items() if "root" not in name}
    assert sum(files.values()) < 1_400
