"""Files nobody meant: random damage on the way, and nonsense under good signatures. Always a refusal, never a crash."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model_registry.contract.errors import Refusal, Untrusted
from model_registry.trust.keys import Role
from tests.trust.world import FAMILY, V1, V2, Attacker, FakeTransport, Registry, Vehicle, delta, via

ROUNDS = 60
DIRECTOR = {"timestamp": Role.DIRECTOR_TIMESTAMP, "snapshot": Role.DIRECTOR_SNAPSHOT, "targets": Role.DIRECTOR_TARGETS}
IMAGE = {
    "timestamp": Role.TIMESTAMP,
    "snapshot": Role.SNAPSHOT,
    "targets": Role.TARGETS,
    f"family-{FAMILY}": Role.FAMILY,
    f"deltas-{FAMILY}": Role.DELTA,
}
NONSENSE: list[Any] = [None, True, -1, 0, 2**70, "", "x" * 5000, "\n../", [], {}, [[]], {"": {}}]


@pytest.fixture(autouse=True)
def path(registry: Registry) -> str:
    registry.publish(V1, V2)
    registry.assign(V2)
    return registry.publish_delta(delta(V1, V2))


def mangled(data: bytes, dice: random.Random) -> bytes:
    at = dice.randrange(len(data))
    match dice.randrange(5):
        case 0:
            return data[:at]
        case 1:
            return data[:at] + bytes([data[at] ^ (1 << dice.randrange(8))]) + data[at + 1 :]
        case 2:
            return data[:at] + dice.randbytes(dice.randrange(1, 40)) + data[at:]
        case 3:
            return data[:at] + data[at + dice.randrange(1, 40) :]
        case _:
            other = dice.randrange(len(data))
            return data[:at] + data[other : other + 30] + data[at + 30 :]


def test_damage_on_the_way_is_refused_or_without_effect(
    registry: Registry, vehicle: Vehicle, transport: FakeTransport, tmp_path: Path
) -> None:
    dice = random.Random(20270301)
    refused = 0
    for number in range(ROUNDS):
        fresh = replace(vehicle, directory=tmp_path / f"{number}").install(registry.roots())
        transport.requests.clear()
        transport.faults = {dice.choice((1, 2, 3, 5, 6, 7, 8)): mangling(dice)}
        try:
            assert fresh.resolved(counter_floor=1) == "2.0.0"
        except Refusal:
            refused += 1
    assert refused > ROUNDS // 2


def mangling(dice: random.Random) -> Callable[[str, bytes | None], Iterator[bytes]]:
    return lambda url, data: iter([mangled(data or b"?", dice)])


def places(document: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON document."""
    items = document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    for key, value in items:
        yield (*here, key)
        yield from places(value, (*here, key))


def putting(dice: random.Random) -> Callable[[dict[str, Any]], None]:
    def put(document: dict[str, Any]) -> None:
        *way, last = dice.choice(list(places(document)))
        for step in way:
            document = document[step]
        document[last] = dice.choice(NONSENSE)

    return put


@pytest.mark.parametrize("role", [*(f"director {name}" for name in DIRECTOR), *(f"image {name}" for name in IMAGE)])
def test_nonsense_under_a_good_signature_is_refused_or_without_effect(
    registry: Registry, vehicle: Vehicle, path: str, role: str, tmp_path: Path
) -> None:
    repository, _, name = role.partition(" ")
    dice = random.Random(role)
    insider = Attacker(registry, *Role)
    kept, kept_director = dict(registry.store.files), {v: dict(files) for v, files in registry.director_files.items()}
    for number in range(12):
        registry.store.files = dict(kept)
        registry.director_files = {v: dict(files) for v, files in kept_director.items()}
        if repository == "image":
            insider.edit_image(name, IMAGE[name], putting(dice))
        else:
            insider.edit_director(name, DIRECTOR[name], putting(dice))
        fresh = replace(vehicle, directory=tmp_path / f"{number}").install(registry.roots())
        repositories = fresh.boot()
        with suppress(Refusal):
            target = repositories.resolve(counter_floor=1)
            assert target is None or (target.full, target.sha256, target.length) == V2.offer
            if target:
                (found,) = repositories.chain(via(path, V2), base_sha256=V1.target.content_sha256)
                assert found.delta == delta(V1, V2)


def test_a_role_whose_name_is_no_name_is_refused(registry: Registry, vehicle: Vehicle, path: str) -> None:
    Attacker(registry, *Role).edit_image("targets", Role.TARGETS, lambda d: d["delegations"]["roles"][0].update(name=True))
    with pytest.raises(Untrusted, match="image repository"):
        vehicle.resolved()


def test_the_nonsense_reaches_the_vehicle(registry: Registry, vehicle: Vehicle) -> None:
    Attacker(registry, *Role).edit_director("targets", Role.DIRECTOR_TARGETS, lambda document: document.update(version=None))
    with pytest.raises(Untrusted):
        vehicle.resolved()
