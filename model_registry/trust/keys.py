"""Key custody: one key per signing role, named in ``keys.json``, used through securesystemslib signer URIs.

A key directory holds ``keys.json`` (public: for each role its threshold, public keys and signer URIs), the private files
``<role>.pem`` (mode 0600) and ``roots/`` (public, see ``trust.roots``). Rules:

- a key that exists is never written over, and a role that ``keys.json`` names is never given another key: what looks
  missing may lie offline on purpose;
- a ``file2:`` URI without a leading slash is relative to the directory, so that the directory can be mounted anywhere;
- any other URI (``awskms:``, ``gcpkms:``, ``azurekms:``, ``hsm:``, ...) goes to securesystemslib as it stands;
- a keyring with some of its private keys is a whole keyring for the roles that it can sign.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.exceptions import Error as SecureSystemsError
from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import CryptoSigner, Key, Signature, Signer, SSlibKey

from model_registry.contract.canonical import canonical_json, parse_json_object
from model_registry.contract.errors import MessageRefused, Refusal, Untrusted
from model_registry.contract.fields import Fields
from model_registry.contract.messages import Envelope
from model_registry.trust.files import create_once, replace_durably

KEYS_FILE = "keys.json"
MAX_KEYS_FILE_BYTES = 256 * 1024
# The schemes that every custodian offers: Ed25519 for files and Vault, P-256 for cloud KMS and PKCS#11.
VEHICLE_KEY_SCHEMES = frozenset({("ed25519", "ed25519"), ("ecdsa", "ecdsa-sha2-nistp256")})


class KeyringRefused(Refusal):
    """A key directory cannot be used as asked: a key is missing, unreadable or does not fit."""

    code = "keyring_refused"


class Role(StrEnum):
    """Every role that signs. The values are file names and the words of ``deltafleet keys``."""

    ROOT = "root"
    TARGETS = "targets"
    FAMILY = "family"
    DELTA = "delta"
    SNAPSHOT = "snapshot"
    TIMESTAMP = "timestamp"
    DIRECTOR_ROOT = "director-root"
    DIRECTOR_TARGETS = "director-targets"
    DIRECTOR_SNAPSHOT = "director-snapshot"
    DIRECTOR_TIMESTAMP = "director-timestamp"


class KeyType(StrEnum):
    """What ``init_keys`` can make."""

    ED25519 = "ed25519"
    P256 = "p256"


@dataclass(frozen=True, slots=True)
class RoleKey:
    """One key of a role: its public part, and where its private part is found."""

    public: Key
    uri: str


@dataclass(frozen=True, slots=True)
class RoleKeys:
    """The keys of a role, of which ``threshold`` must sign."""

    threshold: int
    keys: tuple[RoleKey, ...]


@dataclass(frozen=True, slots=True)
class KeysMade:
    """What ``init_keys`` did: roles that got a new key, and roles that kept theirs."""

    created: tuple[Role, ...]
    kept: tuple[Role, ...]


class Keyring:
    """The keys of a directory. ``load`` reads no private key; each is opened when its role first signs."""

    def __init__(self, directory: Path, roles: Mapping[Role, RoleKeys]) -> None:
        self.directory = directory
        self._roles = dict(roles)
        self._signers: dict[Role, list[Signer]] = {}

    @classmethod
    def load(cls, directory: Path) -> Keyring:
        """Raises KeyringRefused when ``keys.json`` is absent, unreadable or lacks a role."""
        roles = _read_keys_file(directory)
        if roles is None:
            raise KeyringRefused(
                f"{directory} holds no {KEYS_FILE}", remedy=f"make the keys with: deltafleet keys init {directory}"
            )
        missing = [role.value for role in Role if role not in roles]
        if missing:
            raise KeyringRefused(
                f"{directory / KEYS_FILE} names no key for {', '.join(missing)}",
                remedy=f"complete it with: deltafleet keys init {directory}",
            )
        return cls(directory, roles)

    def role_keys(self, role: Role) -> RoleKeys:
        return self._roles[Role(role)]

    def public_keys(self, role: Role) -> tuple[Key, ...]:
        return tuple(key.public for key in self.role_keys(role).keys)

    def can_sign(self, role: Role) -> bool:
        """Whether enough private keys of the role are at hand. A key in a KMS or token counts as at hand."""
        here = [key for key in self.role_keys(role).keys if self._is_here(key)]
        return len(here) >= self.role_keys(role).threshold

    def signer(self, role: Role) -> Signer:
        """The role's first key at hand. Raises KeyringRefused."""
        return self.signers(role)[0]

    def signers(self, role: Role) -> list[Signer]:
        """Every key of the role that is at hand, at least its threshold. Raises KeyringRefused."""
        if role not in self._signers:
            if not self.can_sign(role):
                raise KeyringRefused(
                    f"the private key of the role {Role(role).value!r} is not in {self.directory}",
                    remedy="run this where that key is kept, or give its signer URI in keys.json",
                )
            self._signers[role] = [self._opened(key) for key in self.role_keys(role).keys if self._is_here(key)]
        return self._signers[role]

    def _is_here(self, key: RoleKey) -> bool:
        path = _private_path(self.directory, key.uri)
        return bool(key.uri) if path is None else path.is_file()

    def _opened(self, key: RoleKey) -> Signer:
        path = _private_path(self.directory, key.uri)
        try:
            return Signer.from_priv_key_uri(key.uri if path is None else f"file2:{path.absolute()}", key.public)
        except (ValueError, OSError, UnsupportedAlgorithm, SecureSystemsError, ImportError) as exc:
            raise KeyringRefused(f"the key {key.uri} cannot be used: {exc}", remedy="restore it from its backup") from exc


def init_keys(directory: Path, *, key_type: KeyType = KeyType.ED25519) -> KeysMade:
    """Give every role that has none a key of its own, and leave all others alone. May be repeated at will.

    A private file without an entry in ``keys.json`` (an interrupted run) is taken up. Raises KeyringRefused.
    """
    known = _read_keys_file(directory) or {}
    missing = [role for role in Role if role not in known]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o700)
        added = {role: _made_or_found(directory, role, key_type) for role in missing}
        if missing:
            replace_durably(directory / KEYS_FILE, _keys_file_bytes({**known, **added}))
    except OSError as exc:
        raise KeyringRefused(f"{directory} cannot be written: {exc.strerror}", remedy="name a folder of your own") from exc
    return KeysMade(created=tuple(missing), kept=tuple(role for role in Role if role in known))


def verify_envelope(envelope: Envelope, public_key: Mapping[str, Any]) -> None:
    """Check a vehicle's signature over its payload against the key it enrolled with (securesystemslib's dictionary).

    Raises Untrusted: an unsupported or malformed key, another key's id, a wrong signature.
    """
    verify_signed_by(envelope, vehicle_key(public_key))


def verify_signed_by(envelope: Envelope, key: Key) -> None:
    """The same with a key that ``vehicle_key`` has read before, for who checks many messages. Raises Untrusted."""
    if envelope.keyid != key.keyid:
        raise Untrusted("the message is signed with another key than the vehicle enrolled with")
    try:
        key.verify_signature(Signature(envelope.keyid, envelope.signature), envelope.signed_bytes)
    except UnverifiedSignatureError as exc:
        raise Untrusted("the signature of the message is wrong") from exc


def vehicle_key(public_key: Mapping[str, Any]) -> Key:
    """Read a vehicle's public key strictly: Ed25519 or P-256, nothing else in the dictionary. Raises Untrusted."""
    fields = Fields(public_key, Untrusted, "public_key").only("keytype", "scheme", "keyval")
    keytype, scheme = fields.text("keytype", max_length=32), fields.text("scheme", max_length=32)
    public = fields.object("keyval").only("public").text("public", max_length=512)
    if (keytype, scheme) not in VEHICLE_KEY_SCHEMES:
        raise Untrusted(f"a vehicle's key cannot be {keytype}/{scheme}", remedy="use Ed25519 or P-256")
    key = SSlibKey(_keyid(keytype, scheme, public), keytype, scheme, {"public": public})
    _refuse_malformed(key)
    return key


def _refuse_malformed(key: SSlibKey) -> None:
    """The library tells "this is no key" from "this is not the signature" only when it verifies; so let it, once."""
    try:
        key.verify_signature(Signature(key.keyid, "00"), b"")
    except VerificationError as exc:
        raise Untrusted("the vehicle's public key is malformed") from exc
    except UnverifiedSignatureError:
        pass


def _keyid(keytype: str, scheme: str, public: str) -> str:
    """The key id of the TUF specification, section 4.2: SHA-256 of the key's canonical JSON."""
    text = encode_canonical({"keytype": keytype, "scheme": scheme, "keyval": {"public": public}})
    return hashlib.sha256(str(text).encode()).hexdigest()


def _private_path(directory: Path, uri: str) -> Path | None:
    scheme, _, rest = uri.partition(":")
    return directory / rest if scheme == CryptoSigner.SCHEME else None


def _made_or_found(directory: Path, role: Role, key_type: KeyType) -> RoleKeys:
    path = directory / f"{role.value}.pem"
    create_once(path, _generated(key_type).private_bytes, mode=0o600)
    try:
        public = _public_part(path.read_bytes())
    except (ValueError, TypeError, OSError, UnsupportedAlgorithm) as exc:
        raise KeyringRefused(f"{path} is not a private key: {exc}", remedy="restore it, or move it away") from exc
    return RoleKeys(1, (RoleKey(public, f"{CryptoSigner.SCHEME}:{path.name}"),))


def _public_part(pem: bytes) -> SSlibKey:
    """The public key of a private file. Its id is the usual digest cut to 16 digits: TAP 12 wants ids that differ within one
    file, and 48 characters saved in every signature are bytes that every vehicle pays on every check."""
    crypto_key = load_pem_private_key(pem, None).public_key()
    whole = SSlibKey.from_crypto(crypto_key)
    return SSlibKey(whole.keyid[:16], whole.keytype, whole.scheme, whole.keyval)


def _generated(key_type: KeyType) -> CryptoSigner:
    return CryptoSigner.generate_ed25519() if key_type is KeyType.ED25519 else CryptoSigner.generate_ecdsa()


def _read_keys_file(directory: Path) -> dict[Role, RoleKeys] | None:
    path = directory / KEYS_FILE
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise KeyringRefused(f"{path} cannot be read: {exc.strerror}") from exc
    try:
        document = parse_json_object(data, max_bytes=MAX_KEYS_FILE_BYTES)
        roles = Fields(document, KeyringRefused, KEYS_FILE).only("roles").object("roles")
        return {role: _read_role(roles.object(role.value)) for role in Role if role.value in roles.plain()}
    except (MessageRefused, ValueError, TypeError, KeyError) as exc:
        raise KeyringRefused(f"{path} is damaged: {exc}", remedy="restore it from its backup") from exc


def _read_role(fields: Fields) -> RoleKeys:
    fields.only("threshold", "keys")
    keys = tuple(
        RoleKey(Key.from_dict(entry.text("keyid", max_length=64), entry.object("public_key").plain()), entry.text("uri"))
        for entry in fields.objects("keys", max_length=16)
    )
    threshold = fields.integer("threshold", low=1, high=16)
    if len({key.public.keyid for key in keys}) < max(threshold, len(keys)):
        raise KeyringRefused("a role has fewer different keys than it needs")
    return RoleKeys(threshold, keys)


def _keys_file_bytes(roles: Mapping[Role, RoleKeys]) -> bytes:
    return canonical_json(
        {
            "roles": {
                role.value: {
                    "threshold": keys.threshold,
                    "keys": [{"keyid": k.public.keyid, "uri": k.uri, "public_key": k.public.to_dict()} for k in keys.keys],
                }
                for role, keys in roles.items()
            }
        }
    )
