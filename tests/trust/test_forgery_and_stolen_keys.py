"""Arbitrary software: what an attacker can make a vehicle run who writes to every store and holds some keys, but not others."""

from __future__ import annotations

from typing import Any

import pytest

from model_registry.contract.errors import RollbackRefused, Untrusted, WrongHardware
from model_registry.contract.messages import Hop
from model_registry.trust.keys import Role
from tests.trust.world import (
    FAMILY,
    V1,
    V2,
    V3,
    VEHICLE,
    Attacker,
    FakeTransport,
    Registry,
    Vehicle,
    artifact,
    delta,
    digest,
    via,
)

EVIL = artifact("6.6.6", 666)
IMAGE_ROLES = {
    "timestamp": Role.TIMESTAMP,
    "snapshot": Role.SNAPSHOT,
    "targets": Role.TARGETS,
    f"family-{FAMILY}": Role.FAMILY,
}
DIRECTOR_ROLES = {
    "timestamp": Role.DIRECTOR_TIMESTAMP,
    "snapshot": Role.DIRECTOR_SNAPSHOT,
    "targets": Role.DIRECTOR_TARGETS,
}
ONLINE_IMAGE_KEYS = (Role.SNAPSHOT, Role.TIMESTAMP, Role.DELTA)
ONLINE_DIRECTOR_KEYS = tuple(DIRECTOR_ROLES.values())


def entry(item: Any) -> dict[str, Any]:
    target, sha256, length = item.offer
    return {target.path: {"custom": target.to_custom(), "hashes": {"sha256": sha256}, "length": length}}


def live_long(document: dict[str, Any]) -> None:
    document["expires"] = "2037-01-01T00:00:00Z"


@pytest.fixture(autouse=True)
def published(registry: Registry) -> None:
    registry.publish(V1, V2)
    registry.assign(V2)


@pytest.mark.parametrize("role", IMAGE_ROLES)
def test_a_forged_image_role_is_refused(registry: Registry, vehicle: Vehicle, role: str) -> None:
    Attacker(registry).edit_image(role, IMAGE_ROLES[role], live_long)
    with pytest.raises(Untrusted, match="image repository"):
        vehicle.resolved()


@pytest.mark.parametrize("role", DIRECTOR_ROLES)
def test_a_forged_director_role_is_refused(registry: Registry, vehicle: Vehicle, role: str) -> None:
    Attacker(registry).edit_director(role, DIRECTOR_ROLES[role], live_long)
    with pytest.raises(Untrusted, match="director repository"):
        vehicle.resolved()


def test_a_forged_delta_role_is_refused_and_the_full_target_stays_good(registry: Registry, vehicle: Vehicle) -> None:
    path = registry.publish_delta(delta(V1, V2))
    Attacker(registry).edit_image(f"deltas-{FAMILY}", Role.DELTA, live_long)
    repositories = vehicle.boot()
    assert repositories.resolve(counter_floor=0) is not None
    with pytest.raises(Untrusted):
        repositories.chain(via(path, V2), base_sha256=V1.target.content_sha256)


@pytest.mark.parametrize("repository", ["image", "director"])
def test_a_root_of_the_attackers_own_is_refused(registry: Registry, vehicle: Vehicle, repository: str) -> None:
    attacker = Attacker(registry)
    files = registry.store.files if repository == "image" else registry.director_files[VEHICLE]
    key = Role.ROOT if repository == "image" else Role.DIRECTOR_ROOT
    files["2.root.json"] = attacker._edited(files["1.root.json"], key, lambda document: document.update(version=2))
    with pytest.raises(Untrusted, match=f"{repository} repository"):
        vehicle.resolved()


def test_the_directors_keys_alone_install_no_file_of_their_own(registry: Registry, vehicle: Vehicle) -> None:
    thief = Attacker(registry, *ONLINE_DIRECTOR_KEYS)
    thief.edit_director("targets", Role.DIRECTOR_TARGETS, lambda document: document.update(targets=entry(EVIL)))
    with pytest.raises(Untrusted, match="does not know"):
        vehicle.resolved()


def test_the_directors_keys_alone_bring_back_no_older_release(registry: Registry, vehicle: Vehicle) -> None:
    thief = Attacker(registry, *ONLINE_DIRECTOR_KEYS)
    thief.edit_director("targets", Role.DIRECTOR_TARGETS, lambda document: document.update(targets=entry(V1)))
    with pytest.raises(RollbackRefused):
        vehicle.resolved(counter_floor=2)


def test_the_directors_keys_alone_cannot_relabel_an_older_release(registry: Registry, vehicle: Vehicle) -> None:
    relabelled = entry(V1)
    relabelled[V1.target.path]["custom"]["release_counter"] = 99
    thief = Attacker(registry, *ONLINE_DIRECTOR_KEYS)
    thief.edit_director("targets", Role.DIRECTOR_TARGETS, lambda document: document.update(targets=relabelled))
    with pytest.raises(Untrusted, match="disagree on the description"):
        vehicle.resolved(counter_floor=2)


def test_the_directors_keys_alone_cannot_send_a_model_for_other_hardware(registry: Registry, vehicle: Vehicle) -> None:
    truck = artifact("2.0.0", 9, family="trucks", hardware="ecu-2")
    registry.publish(truck)
    thief = Attacker(registry, *ONLINE_DIRECTOR_KEYS)
    thief.edit_director("targets", Role.DIRECTOR_TARGETS, lambda document: document.update(targets=entry(truck)))
    with pytest.raises(WrongHardware):
        vehicle.resolved()


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("length", 1, "length"),
        ("hashes", {"sha256": digest("evil")}, "hashes"),
        ("hashes", {"sha256": V2.sha256, "sha512": "0" * 128}, "hashes"),
        ("custom", {**V2.target.to_custom(), "content_sha256": digest("evil")}, "description"),
        ("custom", {**V2.target.to_custom(), "content_bytes": 2**39}, "description"),
        ("custom", {**V2.target.to_custom(), "more": 1}, "description"),
    ],
)
def test_the_repositories_must_agree_in_every_field(
    registry: Registry, vehicle: Vehicle, field: str, value: object, named: str
) -> None:
    thief = Attacker(registry, *ONLINE_DIRECTOR_KEYS)
    thief.edit_director("targets", Role.DIRECTOR_TARGETS, lambda d: d["targets"][V2.target.path].update({field: value}))
    with pytest.raises(Untrusted, match=f"disagree on the {named}"):
        vehicle.resolved()


def test_two_targets_for_one_vehicle_are_refused(registry: Registry, vehicle: Vehicle) -> None:
    thief = Attacker(registry, *ONLINE_DIRECTOR_KEYS)
    thief.edit_director("targets", Role.DIRECTOR_TARGETS, lambda d: d["targets"].update(entry(V1)))
    with pytest.raises(Untrusted, match="more than one"):
        vehicle.resolved()


def test_a_director_that_delegates_is_refused(registry: Registry, vehicle: Vehicle) -> None:
    thief = Attacker(registry, *ONLINE_DIRECTOR_KEYS)
    thief.edit_director("targets", Role.DIRECTOR_TARGETS, lambda d: d.update(delegations={"keys": {}, "roles": []}))
    with pytest.raises(Untrusted, match="delegates"):
        vehicle.resolved()


def test_the_image_repositorys_online_keys_alone_add_no_release(registry: Registry, vehicle: Vehicle) -> None:
    thief = Attacker(registry, *ONLINE_IMAGE_KEYS)
    thief.edit_image(f"family-{FAMILY}", Role.FAMILY, lambda document: document["targets"].update(entry(EVIL)))
    registry.assign(EVIL)
    with pytest.raises(Untrusted, match="family-signs"):
        vehicle.resolved()


def test_the_delta_key_alone_signs_no_full_artifact(registry: Registry, vehicle: Vehicle) -> None:
    registry.publish_delta(delta(V1, V2))
    thief = Attacker(registry, *ONLINE_IMAGE_KEYS)
    thief.edit_image(f"deltas-{FAMILY}", Role.DELTA, lambda document: document["targets"].update(entry(EVIL)))
    registry.assign(EVIL)
    with pytest.raises(Untrusted, match="does not know"):
        vehicle.resolved()


def test_the_release_key_alone_assigns_nothing(registry: Registry, vehicle: Vehicle) -> None:
    thief = Attacker(registry, Role.FAMILY)
    thief.edit_image(f"family-{FAMILY}", Role.FAMILY, lambda document: document["targets"].update(entry(EVIL)))
    assert vehicle.resolved() == "2.0.0", "what the director assigns"
    thief.edit_image(f"family-{FAMILY}", Role.FAMILY, lambda d: d["targets"][V2.target.path].update(length=7))
    vehicle.directory = vehicle.directory.with_name("another")
    with pytest.raises(Untrusted, match="disagree on the length"):
        vehicle.install(registry.roots()).resolved()


def test_one_familys_role_cannot_sign_for_another(registry: Registry, vehicle: Vehicle) -> None:
    lanes = artifact("1.0.0", 5, family="lanes")
    registry.publish(artifact("0.1.0", 1, family="other"))
    thief = Attacker(registry, Role.FAMILY)
    thief.edit_image("family-other", Role.FAMILY, lambda document: document["targets"].update(entry(lanes)))
    registry.assign(lanes)
    with pytest.raises(Untrusted, match="does not know"):
        vehicle.resolved()


def test_the_delta_key_alone_leads_to_nothing_but_the_release(registry: Registry, vehicle: Vehicle) -> None:
    """Whatever it says of a delta: what must come out is told by the release key."""
    path = registry.publish_delta(delta(V1, V2))
    lies = {"content_sha256": digest("evil"), "content_bytes": 2**39, "kind": "full", "release_counter": 99}
    thief = Attacker(registry, *ONLINE_IMAGE_KEYS)
    thief.edit_image(f"deltas-{FAMILY}", Role.DELTA, lambda d: d["targets"][path].update(custom=lies, length=77))
    repositories = vehicle.boot()
    repositories.resolve(counter_floor=1)
    (file,) = repositories.chain(via(path, V2), base_sha256=V1.target.content_sha256)
    assert file.length == 77
    assert (file.delta.content_sha256, file.content_bytes) == (V2.target.content_sha256, V2.target.content_bytes)


@pytest.mark.parametrize("hashes", [{"sha256": "x"}, {"sha512": "0" * 128}])
def test_a_delta_without_a_digest_is_refused(registry: Registry, vehicle: Vehicle, hashes: dict[str, str]) -> None:
    path = registry.publish_delta(delta(V1, V2))
    thief = Attacker(registry, *ONLINE_IMAGE_KEYS)
    thief.edit_image(f"deltas-{FAMILY}", Role.DELTA, lambda d: d["targets"][path].update(hashes=hashes))
    repositories = vehicle.boot()
    repositories.resolve(counter_floor=1)
    with pytest.raises(Untrusted, match="without a SHA-256"):
        repositories.chain(via(path, V2), base_sha256=V1.target.content_sha256)


def test_a_delta_larger_than_what_it_saves_is_refused(registry: Registry, vehicle: Vehicle) -> None:
    path = registry.publish_delta(delta(V1, V2), length=2**40)
    repositories = vehicle.boot()
    repositories.resolve(counter_floor=1)
    with pytest.raises(Untrusted, match="larger"):
        repositories.chain(via(path, V2), base_sha256=V1.target.content_sha256)


def test_a_delta_on_another_base_is_refused_before_anything_is_fetched(
    registry: Registry, vehicle: Vehicle, transport: FakeTransport
) -> None:
    registry.publish(V3)
    registry.assign(V3)
    path = registry.publish_delta(delta(V2, V3))
    repositories = vehicle.boot()
    repositories.resolve(counter_floor=1)
    before = len(transport.requests)
    with pytest.raises(Untrusted, match="not the name of a delta from the installed model"):
        repositories.chain(via(path, V3), base_sha256=V1.target.content_sha256)
    with pytest.raises(Untrusted, match="another content"):
        repositories.chain(via(path, V2), base_sha256=V2.target.content_sha256)
    assert len(transport.requests) == before


def test_a_chain_leads_over_nothing_that_the_release_key_did_not_sign(registry: Registry, vehicle: Vehicle) -> None:
    """With every online key: a delta to a content of the thief's own, and one from there to the release."""
    registry.publish(V3)
    registry.assign(V3)
    hops = (
        Hop(registry.publish_delta(delta(V1, EVIL)), EVIL.target.path),
        Hop(registry.publish_delta(delta(EVIL, V3)), V3.target.path),
    )
    repositories = vehicle.boot()
    repositories.resolve(counter_floor=1)
    with pytest.raises(Untrusted):
        repositories.chain(hops, base_sha256=V1.target.content_sha256)
    thief = Attacker(registry, *ONLINE_IMAGE_KEYS)
    thief.edit_image(f"deltas-{FAMILY}", Role.DELTA, lambda document: document["targets"].update(entry(EVIL)))
    repositories = vehicle.boot()
    repositories.resolve(counter_floor=1)
    with pytest.raises(Untrusted):
        repositories.chain(hops, base_sha256=V1.target.content_sha256)


def test_a_chain_must_hold_together(registry: Registry, vehicle: Vehicle) -> None:
    lanes = artifact("1.0.0", 5, family="lanes")
    registry.publish(V3, lanes)
    registry.assign(V3)
    first, second = (registry.publish_delta(delta(*ends)) for ends in ((V1, V2), (V2, V3)))
    aside = registry.publish_delta(delta(V1, lanes))
    repositories = vehicle.boot()
    repositories.resolve(counter_floor=1)
    one, two = V2.target.path, V3.target.path
    broken = {
        "in the wrong order": [Hop(second, two), Hop(first, one)],
        "one is missing": [Hop(second, two)],
        "ends on the way": [Hop(first, one)],
        "another content on the way": [Hop(first, V1.target.path), Hop(second, two)],
        "an unknown content on the way": [Hop(first, "models/signs/9.9.9.dfm"), Hop(second, two)],
        "a delta as a content": [Hop(first, first), Hop(second, two)],
        "over another family": [Hop(aside, lanes.target.path), Hop(second, two)],
        "nothing": [],
    }
    for name, hops in broken.items():
        with pytest.raises(Untrusted):
            pytest.fail(f"{name}: {repositories.chain(hops, base_sha256=V1.target.content_sha256)}")


def test_a_chain_that_costs_more_than_the_full_artifact_is_refused(registry: Registry, vehicle: Vehicle) -> None:
    registry.publish(V3)
    registry.assign(V3)
    hops = [Hop(registry.publish_delta(delta(one, two), length=200_001), two.target.path) for one, two in ((V1, V2), (V2, V3))]
    repositories = vehicle.boot()
    repositories.resolve(counter_floor=1)
    with pytest.raises(Untrusted, match="400002 bytes"):
        repositories.chain(hops, base_sha256=V1.target.content_sha256)


def test_another_vehicles_genuine_metadata_is_refused_and_locks_nobody_out(registry: Registry, vehicle: Vehicle) -> None:
    registry.assign(V1)
    assert vehicle.resolved(counter_floor=1) == "1.0.0"
    mine = dict(registry.director_files[VEHICLE])
    registry.assign(V2, "car-2", version=1_000)
    registry.director_files[VEHICLE] |= registry.director_files["car-2"]
    with pytest.raises(Untrusted, match="another vehicle"):
        vehicle.resolved(counter_floor=1)

    registry.director_files[VEHICLE] = mine
    assert vehicle.resolved(counter_floor=1) == "1.0.0", "version 1000 of the other vehicle left no mark"


def test_a_director_that_names_no_vehicle_is_refused(registry: Registry, vehicle: Vehicle) -> None:
    thief = Attacker(registry, *ONLINE_DIRECTOR_KEYS)
    thief.edit_director("targets", Role.DIRECTOR_TARGETS, lambda document: document.pop("vehicle_id"))
    with pytest.raises(Untrusted, match="another vehicle"):
        vehicle.resolved()


@pytest.mark.parametrize(
    "path",
    [
        "../../../etc/passwd",
        "/etc/passwd",
        "models/../../etc/passwd",
        "models/signs/../lanes/1.0.0.dfm",
        "models/signs/%2e%2e/2.0.0.dfm",
        "models//signs/2.0.0.dfm",
        "models/signs/2.0.0.dfm/",
        "models/signs/2.0.0.dfm\n",
        "models\\signs\\2.0.0.dfm",
        "https://evil.example/models/signs/2.0.0.dfm",
        "",
    ],
)
def test_a_target_name_is_only_ever_that_of_its_description(
    registry: Registry, vehicle: Vehicle, transport: FakeTransport, path: str
) -> None:
    thief = Attacker(registry, *ONLINE_DIRECTOR_KEYS)
    thief.edit_director("targets", Role.DIRECTOR_TARGETS, lambda d: d.update(targets={path: entry(V2)[V2.target.path]}))
    with pytest.raises(Untrusted):
        vehicle.resolved()
    assert not [request for request in transport.requests if "/image/" in request]


@pytest.mark.parametrize("path", ["deltas/signs/../../models/x.dfd", "../x", "", "deltas/signs/a-b.dfd"])
def test_a_delta_name_is_only_ever_the_one_that_the_contents_make(registry: Registry, vehicle: Vehicle, path: str) -> None:
    repositories = vehicle.boot()
    repositories.resolve(counter_floor=1)
    with pytest.raises(Untrusted, match="not the name"):
        repositories.chain(via(path, V2), base_sha256=V1.target.content_sha256)


def test_a_digest_that_is_no_digest_never_reaches_a_url(registry: Registry, vehicle: Vehicle) -> None:
    thief = Attacker(registry, *ONLINE_DIRECTOR_KEYS)
    hashes = {"sha256": "../../evil"}
    thief.edit_director("targets", Role.DIRECTOR_TARGETS, lambda d: d["targets"][V2.target.path].update(hashes=hashes))
    with pytest.raises(Untrusted, match="without a SHA-256"):
        vehicle.resolved()
