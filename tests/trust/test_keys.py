"""Key custody: made once, never replaced, usable in parts; and the signature of a vehicle."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner, SSlibKey

from model_registry.contract.errors import Refusal, Untrusted
from model_registry.contract.messages import Envelope
from model_registry.trust.director import Director
from model_registry.trust.image_repository import ImageRepository
from model_registry.trust.keys import Keyring, KeyringRefused, KeyType, Role, init_keys, vehicle_key, verify_envelope
from model_registry.trust.roots import Repository, root_chain
from tests.trust.world import V1, VEHICLE, Clock, MemoryStore, Registry, Vehicle


def snapshot_of(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_every_role_gets_a_key_of_its_own_that_only_the_owner_reads(tmp_path: Path) -> None:
    made = init_keys(tmp_path / "keys")
    keyring = Keyring.load(tmp_path / "keys")
    assert set(made.created) == set(Role)
    assert len({keyring.public_keys(role)[0].keyid for role in Role}) == len(Role)
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    for role in Role:
        assert stat.S_IMODE((tmp_path / "keys" / f"{role.value}.pem").stat().st_mode) == 0o600


def test_repeating_changes_nothing(tmp_path: Path) -> None:
    init_keys(tmp_path / "keys")
    before = snapshot_of(tmp_path / "keys")
    made = init_keys(tmp_path / "keys", key_type=KeyType.P256)
    assert made.created == ()
    assert set(made.kept) == set(Role)
    assert snapshot_of(tmp_path / "keys") == before


def test_an_open_directory_is_closed(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir(mode=0o755)
    init_keys(tmp_path / "keys")
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700


def test_what_an_interrupted_run_left_is_taken_up(key_directory: Path) -> None:
    document = json.loads((key_directory / "keys.json").read_bytes())
    del document["roles"]["timestamp"]
    del document["roles"]["director-root"]
    (key_directory / "keys.json").write_text(json.dumps(document))
    private = (key_directory / "timestamp.pem").read_bytes()
    (key_directory / "director-root.pem").unlink()

    made = init_keys(key_directory)

    assert set(made.created) == {Role.TIMESTAMP, Role.DIRECTOR_ROOT}
    assert (key_directory / "timestamp.pem").read_bytes() == private
    Keyring.load(key_directory).signer(Role.TIMESTAMP)


def test_a_key_that_lies_offline_is_not_made_again(key_directory: Path) -> None:
    (key_directory / "root.pem").unlink()
    assert init_keys(key_directory).created == ()
    assert not (key_directory / "root.pem").exists()


def _init(directory: Path) -> None:
    init_keys(directory)


def test_processes_that_race_agree_on_one_set(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    racers = [context.Process(target=_init, args=(tmp_path / "keys",)) for _ in range(4)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(60)
        assert racer.exitcode == 0
    keyring = Keyring.load(tmp_path / "keys")
    for role in Role:
        keyring.signer(role)
    assert not list((tmp_path / "keys").glob(".*"))


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"roles": {"root": {}}}', b'{"roles": 3}', b"\xff" * 40])
def test_a_damaged_key_file_is_refused_and_left_alone(key_directory: Path, damage: bytes) -> None:
    (key_directory / "keys.json").write_bytes(damage)
    with pytest.raises(KeyringRefused, match=r"keys\.json"):
        Keyring.load(key_directory)
    with pytest.raises(KeyringRefused):
        init_keys(key_directory)
    assert (key_directory / "keys.json").read_bytes() == damage


def test_a_missing_directory_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(KeyringRefused, match="deltafleet keys init"):
        Keyring.load(tmp_path / "nothing")


def test_a_swapped_private_key_is_refused(key_directory: Path) -> None:
    shutil.copy(key_directory / "delta.pem", key_directory / "family.pem")
    with pytest.raises(KeyringRefused, match=r"family\.pem"):
        Keyring.load(key_directory).signer(Role.FAMILY)


def test_a_damaged_private_key_is_refused(key_directory: Path) -> None:
    (key_directory / "family.pem").write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    with pytest.raises(KeyringRefused, match=r"family\.pem"):
        Keyring.load(key_directory).signer(Role.FAMILY)


def test_an_unknown_custodian_is_refused(key_directory: Path) -> None:
    document = json.loads((key_directory / "keys.json").read_bytes())
    document["roles"]["family"]["keys"][0]["uri"] = "enigma:rotor-3"
    (key_directory / "keys.json").write_text(json.dumps(document))
    with pytest.raises(KeyringRefused, match="enigma"):
        Keyring.load(key_directory).signer(Role.FAMILY)


def test_the_directory_may_be_moved(key_directory: Path, tmp_path: Path) -> None:
    moved = shutil.move(key_directory, tmp_path / "elsewhere")
    Keyring.load(Path(moved)).signer(Role.FAMILY)


def test_a_director_needs_no_other_key_than_its_own(key_directory: Path, clock: Clock) -> None:
    for role in set(Role) - {Role.DIRECTOR_TARGETS, Role.DIRECTOR_SNAPSHOT, Role.DIRECTOR_TIMESTAMP}:
        (key_directory / f"{role.value}.pem").unlink()
    keyring = Keyring.load(key_directory)
    signed = Director(keyring, clock).sign(VEHICLE, V1.offer, 1)
    assert set(signed.files) == {"1.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json"}
    with pytest.raises(KeyringRefused, match="'snapshot'"):
        keyring.signer(Role.SNAPSHOT)


def test_without_a_root_and_its_key_nothing_starts(key_directory: Path, clock: Clock) -> None:
    shutil.rmtree(key_directory / "roots")
    (key_directory / "root.pem").unlink()
    with pytest.raises(KeyringRefused, match="'root'"):
        ImageRepository(MemoryStore(), Keyring.load(key_directory), clock).initialize()


def test_p256_keys_serve_from_registry_to_vehicle(tmp_path: Path, clock: Clock, vehicle: Vehicle) -> None:
    init_keys(tmp_path / "p256", key_type=KeyType.P256)
    registry = Registry(Keyring.load(tmp_path / "p256"), clock)
    registry.publish(V1)
    registry.assign(V1)
    vehicle.directory = tmp_path / "p256-vehicle"
    vehicle.transport.files = lambda: registry.files  # type: ignore[attr-defined]
    assert vehicle.install(registry.roots()).resolved() == "1.0.0"


def test_another_custodian_is_one_class_away(key_directory: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    """What a KMS plugs into: a URI scheme in keys.json, a class in securesystemslib's table."""
    from securesystemslib.signer import SIGNER_FOR_URI_SCHEME

    class Vault(CryptoSigner):
        @classmethod
        def from_priv_key_uri(cls, priv_key_uri: str, public_key: Any, secrets_handler: Any = None) -> CryptoSigner:
            return CryptoSigner.from_priv_key_uri(f"file2:{key_directory}/{priv_key_uri.partition(':')[2]}.pem", public_key)

    monkeypatch.setitem(SIGNER_FOR_URI_SCHEME, "vault", Vault)
    document = json.loads((key_directory / "keys.json").read_bytes())
    document["roles"]["family"]["keys"][0]["uri"] = "vault:family"
    (key_directory / "keys.json").write_text(json.dumps(document))
    keyring = Keyring.load(key_directory)
    assert keyring.can_sign(Role.FAMILY)
    registry = Registry(keyring, clock)
    registry.publish(V1)
    assert registry.store.read("1.family-signs.json")


def test_a_threshold_of_two_takes_two_keys(key_directory: Path, tmp_path: Path, clock: Clock) -> None:
    """The place that ceremonies with several signers will fill: keys.json holds more than one key for a role."""
    init_keys(tmp_path / "second")
    document = json.loads((key_directory / "keys.json").read_bytes())
    second = json.loads((tmp_path / "second" / "keys.json").read_bytes())["roles"]["family"]["keys"][0]
    second["uri"] = f"file2:{tmp_path}/second/family.pem"
    document["roles"]["family"] = {"threshold": 2, "keys": [document["roles"]["family"]["keys"][0], second]}
    (key_directory / "keys.json").write_text(json.dumps(document))
    registry = Registry(Keyring.load(key_directory), clock)
    registry.publish(V1)
    signatures = json.loads(registry.store.files["1.family-signs.json"])["signatures"]
    assert len({signature["keyid"] for signature in signatures}) == 2

    (tmp_path / "second" / "family.pem").unlink()
    assert not Keyring.load(key_directory).can_sign(Role.FAMILY)


def test_roots_are_signed_once_and_renewed_at_half_of_their_life(key_directory: Path, clock: Clock) -> None:
    keyring = Keyring.load(key_directory)
    first = root_chain(keyring, Repository.DIRECTOR, clock())
    clock.advance(days=182)
    assert root_chain(keyring, Repository.DIRECTOR, clock()) == first
    clock.advance(days=2)
    assert len(root_chain(keyring, Repository.DIRECTOR, clock())) == 2


@pytest.fixture(params=["ed25519", "p256"])
def vehicle_signer(request: pytest.FixtureRequest) -> CryptoSigner:
    return CryptoSigner.generate_ed25519() if request.param == "ed25519" else CryptoSigner.generate_ecdsa()


def envelope(signer: CryptoSigner, payload: dict[str, Any]) -> Envelope:
    unsigned = Envelope(payload, signer.public_key.keyid, "00")
    return replace(unsigned, signature=signer.sign(unsigned.signed_bytes).signature)


def test_a_vehicles_signature_is_verified(vehicle_signer: CryptoSigner) -> None:
    public = vehicle_signer.public_key.to_dict()
    good = envelope(vehicle_signer, {"vehicle_id": "car-1", "sequence": 1})
    verify_envelope(good, public)
    verify_envelope(Envelope.from_bytes(good.to_bytes()), public)
    flipped = f"{int(good.signature[40], 16) ^ 1:x}"
    with pytest.raises(Untrusted, match="signature"):
        verify_envelope(replace(good, payload={"vehicle_id": "car-1", "sequence": 2}), public)
    with pytest.raises(Untrusted, match="signature"):
        verify_envelope(replace(good, signature=good.signature[:40] + flipped + good.signature[41:]), public)


def test_another_vehicles_signature_is_refused(vehicle_signer: CryptoSigner) -> None:
    other = envelope(CryptoSigner.generate_ed25519(), {"vehicle_id": "car-1"})
    with pytest.raises(Untrusted, match="another key"):
        verify_envelope(other, vehicle_signer.public_key.to_dict())
    with pytest.raises(Untrusted, match="signature"):
        verify_envelope(replace(other, keyid=vehicle_signer.public_key.keyid), vehicle_signer.public_key.to_dict())


P384 = CryptoSigner.generate_ecdsa(scheme="ecdsa-sha2-nistp384").public_key.to_dict()
HOSTILE_KEYS: list[Any] = [
    {},
    {"keytype": "ed25519", "scheme": "ed25519", "keyval": {}},
    {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": "00"}},
    {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": "zz" * 32}},
    {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": 5}},
    {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": "00" * 32}, "more": 1},
    {"keytype": "ecdsa", "scheme": "ecdsa-sha2-nistp256", "keyval": {"public": "-----BEGIN PUBLIC KEY-----"}},
    {"keytype": "ecdsa", "scheme": "ecdsa-sha2-nistp256", "keyval": P384["keyval"]},
    P384,
    {"keytype": "rsa", "scheme": "rsassa-pss-sha256", "keyval": {"public": "x"}},
    {"keytype": "sphincs", "scheme": "sphincs-shake-128s", "keyval": {"public": "x"}},
    {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": "0" * 10_000}},
]


@pytest.mark.parametrize("key", HOSTILE_KEYS)
def test_a_key_that_is_none_is_refused_when_it_is_offered(key: Any) -> None:
    with pytest.raises(Refusal):
        vehicle_key(key)


def test_a_vehicle_key_has_the_id_that_the_vehicle_computes(vehicle_signer: CryptoSigner) -> None:
    public = vehicle_signer.public_key
    assert isinstance(public, SSlibKey)
    assert vehicle_key(public.to_dict()).keyid == public.keyid
