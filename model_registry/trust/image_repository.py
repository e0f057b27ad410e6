"""The image repository: signed names of every full artifact and delta, as TUF metadata in a store.

    root ── targets ─┬─ family-<name>   models/<name>/*   the release key: what may run on a vehicle
                     └─ deltas-<name>   deltas/<name>/*   an online key: shorter ways to what the family role signed

Rules:

- Files are written in the order delegated roles, targets, snapshot, timestamp, each under a name of its own (consistent
  snapshots) but the last. So a reader sees the former edition or the next one, at any moment and after a kill at any write.
- A version number that an interrupted run has used is never used for other bytes (but in the very first edition).
- What is read back from the store is verified before it is signed again: whoever can write the store gets nothing signed.
- One writer at a time; who calls sees to it. Readers need no lock.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    T,
    TargetFile,
    Targets,
    Timestamp,
)

from model_registry.contract.errors import Refusal, Untrusted
from model_registry.contract.fields import NAME, SHA256
from model_registry.contract.targets import DeltaTarget, FullTarget
from model_registry.trust.keys import Keyring, KeyringRefused, Role
from model_registry.trust.roots import TOP_LEVEL_ROLES, Repository, parse_root, root_chain
from model_registry.trust.signing import Clock, expiry, is_due, sign, utc_now

TIMESTAMP_FILE = "timestamp.json"
FAMILY_PREFIX = "family-"
DELTA_PREFIX = "deltas-"


class TargetRefused(Refusal):
    """A target cannot be signed as asked: its fields are malformed, or its name stands for other bytes already."""

    code = "target_refused"


class MetadataStore(Protocol):
    """Where the signed files lie. ``write`` replaces a file in one step; a reader never sees half of one."""

    def read(self, name: str) -> bytes | None: ...

    def write(self, name: str, data: bytes) -> None: ...


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What ``refresh`` signed again, and what nears its expiry but waits for a key that is not here; role names."""

    signed: tuple[str, ...]
    waiting: tuple[str, ...]


@dataclass(slots=True)
class _Edition:
    """The published state, verified; ``changed`` roles get a new version in the next one.

    ``outdated`` roles carry a signature that a former root asked for, not the newest one.
    """

    roots: list[Root]
    timestamp: Timestamp | None = None
    snapshot: Snapshot = field(default_factory=lambda: Snapshot(meta={}))
    roles: dict[str, Targets] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    outdated: set[str] = field(default_factory=set)

    def version_of(self, role: str) -> int:
        """The published version, 0 before the first."""
        if role == Snapshot.type:
            return self.timestamp.snapshot_meta.version if self.timestamp else 0
        meta = self.snapshot.meta.get(f"{role}.json")
        return meta.version if meta else 0


class ImageRepository:
    """The publisher's side of the image repository. Every method may be repeated; doing nothing new writes nothing."""

    def __init__(self, store: MetadataStore, keyring: Keyring, clock: Clock = utc_now) -> None:
        self._store = store
        self._keyring = keyring
        self._clock = clock

    def initialize(self) -> None:
        """Publish the roots and an empty first edition. Raises KeyringRefused, Untrusted (a store of other keys)."""
        self._publish(self._current())

    def add_full(self, target: FullTarget, *, sha256: str, length: int) -> None:
        """Sign a full artifact of ``length`` bytes. A new family is delegated on the way, which takes the targets key.

        Raises TargetRefused (its name stands for another artifact), KeyringRefused, Untrusted.
        """
        edition = self._current()
        self._delegate(edition, target.family)
        self._add(edition, family_role(target.family), target_file(target, sha256, length))
        self._publish(edition)

    def add_deltas(self, deltas: Sequence[tuple[DeltaTarget, str, int]]) -> None:
        """Sign deltas, each with its artifact's SHA-256 and length in bytes, in one edition. Raises as ``add_full``."""
        edition = self._current()
        for target, sha256, length in deltas:
            self._delegate(edition, target.family)
            self._add(edition, delta_role(target.family), target_file(target, sha256, length))
        self._publish(edition)

    def retire(self, paths: Iterable[str]) -> None:
        """Take artifacts' names out of the metadata, in one edition, so that vehicles no longer pay for reading them.

        A name that is absent already is fine. A retired version may be added again; that it stands for the same artifact as
        before is for the caller to know. Raises TargetRefused, KeyringRefused, Untrusted.
        """
        edition = self._current()
        for path in paths:
            family, role = _place_of(path)
            signed = self._role(edition, role)
            if signed is not None and signed.targets.pop(path, None) is not None:
                edition.changed.add(role)
                # The keys at hand may be newer than those that it was signed with.
                self._delegate(edition, family)
        self._publish(edition)

    def versions(self, family: str) -> frozenset[str]:
        """The names of the family's full artifacts as they are signed now. Raises KeyringRefused, Untrusted."""
        signed = self._role(self._current(), family_role(family))
        return frozenset(signed.targets if signed else ())

    def can_sign_versions(self) -> bool:
        """Whether the release key is at hand, without which no full artifact is named and none retired."""
        return self._keyring.can_sign(Role.FAMILY)

    def refresh(self) -> Refreshed:
        """Sign again what has lost half of its life or carries signatures of former keys. Call it every hour or so."""
        edition = self._current()
        due = self._due_roles(edition)
        waiting = sorted(role for role in due if not self._keyring.can_sign(_signing_role(role)))
        edition.changed |= due - set(waiting)
        return Refreshed(signed=self._publish(edition), waiting=tuple(waiting))

    def _current(self) -> _Edition:
        """Read the newest edition; without one, the draft of the first. A root that the store lacks is published first."""
        chain = root_chain(self._keyring, Repository.IMAGE, self._clock())
        self._publish_roots(chain)
        edition = _Edition([parse_root(data) for data in reversed(chain)])
        if self._store.read(TIMESTAMP_FILE) is None:
            if self._store.read("2.snapshot.json") is not None:
                # Beginning again at 1 would lose every release, and vehicles would refuse the low version numbers.
                raise _damaged(TIMESTAMP_FILE, "it is missing")
            edition.roles[Targets.type] = Targets()
            edition.changed.add(Targets.type)
            return edition
        edition.timestamp = self._read(edition, TIMESTAMP_FILE, Timestamp, Timestamp.type)
        version = edition.timestamp.snapshot_meta.version
        edition.snapshot = self._read(edition, f"{version}.snapshot.json", Snapshot, Snapshot.type)
        return edition

    def _publish_roots(self, chain: list[bytes]) -> None:
        for version, data in enumerate(chain, start=1):
            name = f"{version}.root.json"
            present = self._store.read(name)
            if present is None:
                self._store.write(name, data)
            elif present != data:
                raise _damaged(name, "it is the root of another key directory")

    def _role(self, edition: _Edition, role: str) -> Targets | None:
        """The targets role of the edition; None when it was never signed."""
        version = edition.version_of(role)
        if role not in edition.roles and version:
            delegator = None if role == Targets.type else self._role(edition, Targets.type)
            signed = self._read(edition, f"{version}.{role}.json", Targets, role, delegator)
            if signed.version != version:
                raise _damaged(f"{version}.{role}.json", "it holds another version")
            edition.roles[role] = signed
        return edition.roles.get(role)

    def _read(self, edition: _Edition, name: str, kind: type[T], role: str, delegator: Targets | None = None) -> T:
        """Read and verify one file; by the newest root first, and by a former one only to sign it anew."""
        data = self._store.read(name)
        if data is None:
            raise _damaged(name, "it is missing")
        try:
            metadata = Metadata[T].from_bytes(data)
        except RepositoryError as exc:
            raise _damaged(name, "it is not TUF metadata") from exc
        delegators: list[Root] | list[Targets] = [delegator] if delegator else edition.roots
        signed_by = [_is_signed_by(candidate, role, metadata) for candidate in delegators]
        if not isinstance(metadata.signed, kind) or not any(signed_by):
            raise _damaged(name, "its signature is not by this key directory")
        if not signed_by[0]:
            edition.outdated.add(role)
        return metadata.signed

    def _delegate(self, edition: _Edition, family: str) -> None:
        """Make sure that the family's two roles exist and are delegated to the keys that the keyring names."""
        if not NAME.fullmatch(family):
            raise TargetRefused(f"{family!r} is not a family name", remedy=f"use a name like {NAME.pattern}")
        targets = self._role(edition, Targets.type) or Targets()
        delegations = targets.delegations or Delegations({}, {})
        roles = delegations.roles or {}
        for name, paths in ((family_role(family), f"models/{family}/*"), (delta_role(family), f"deltas/{family}/*")):
            existing = self._role(edition, name)  # verified by the present delegation, before that changes
            keys = self._keyring.role_keys(_signing_role(name))
            wanted = DelegatedRole(name, [k.public.keyid for k in keys.keys], keys.threshold, terminating=True, paths=[paths])
            if existing is None or roles.get(name) != wanted:
                roles[name] = wanted
                delegations.keys.update({k.public.keyid: k.public for k in keys.keys})
                edition.roles[name] = existing or Targets()
                edition.changed |= {Targets.type, name}
        used = {keyid for role in roles.values() for keyid in role.keyids}
        targets.delegations = Delegations({k: v for k, v in delegations.keys.items() if k in used}, roles)

    def _add(self, edition: _Edition, role: str, file: TargetFile) -> None:
        present = edition.roles[role].targets.get(file.path)
        if present is None:
            edition.roles[role].targets[file.path] = file
            edition.changed.add(role)
        elif present != file:
            raise TargetRefused(f"{file.path} is signed already, for another artifact", remedy="publish under a new version")

    def _due_roles(self, edition: _Edition) -> set[str]:
        """Roles whose signature ages. Families whose keys changed become part of the edition on the way."""
        signed: dict[str, Signed | None] = {Timestamp.type: edition.timestamp, Snapshot.type: edition.snapshot}
        for name in (file.removesuffix(".json") for file in edition.snapshot.meta):
            signed[name] = self._role(edition, name)
        for name in signed:
            if name.startswith(FAMILY_PREFIX):
                self._delegate(edition, name.removeprefix(FAMILY_PREFIX))
        now = self._clock()
        aged = {name for name, content in signed.items() if content is not None and is_due(content, now)}
        return (aged | edition.outdated) - edition.changed

    def _publish(self, edition: _Edition) -> tuple[str, ...]:
        """Sign and write the next edition, if anything is to change. Everything is signed before anything is written."""
        if not edition.changed:
            return ()
        files: dict[str, bytes] = {}
        roles = sorted(edition.changed - {Snapshot.type, Timestamp.type})  # deltas-, family-, then targets
        for role in roles:
            self._sign_next(files, edition, role, edition.roles[role])
            edition.snapshot.meta[f"{role}.json"] = MetaFile(edition.roles[role].version)
        if edition.changed != {Timestamp.type}:
            self._sign_next(files, edition, Snapshot.type, edition.snapshot)
            roles.append(Snapshot.type)
        timestamp = edition.timestamp or Timestamp(version=1)
        timestamp.version += 0 if edition.timestamp is None else 1
        timestamp.snapshot_meta = MetaFile(edition.snapshot.version)
        timestamp.expires = expiry(timestamp, self._clock())
        files[TIMESTAMP_FILE] = self._signed(edition, Timestamp.type, timestamp)
        for name, data in files.items():
            self._store.write(name, data)
        return (*roles, Timestamp.type)

    def _sign_next(self, files: dict[str, bytes], edition: _Edition, role: str, signed: Signed) -> None:
        signed.version = edition.version_of(role) + 1
        # What an interrupted run left keeps its number; before the first timestamp nobody can have read it.
        while edition.timestamp and self._store.read(f"{signed.version}.{role}.json") is not None:
            signed.version += 1
        signed.expires = expiry(signed, self._clock())
        files[f"{signed.version}.{role}.json"] = self._signed(edition, role, signed)

    def _signed(self, edition: _Edition, role: str, signed: Signed) -> bytes:
        """The signed file; never one that the edition's own delegations refuse, which nobody could build upon again."""
        data = sign(signed, self._keyring, _signing_role(role))
        delegator = edition.roots[0] if role in TOP_LEVEL_ROLES[Repository.IMAGE] else self._role(edition, Targets.type)
        if delegator is None or not _is_signed_by(delegator, role, Metadata[Any].from_bytes(data)):
            raise KeyringRefused(
                f"the key of {role} that is here is not the one that the image repository names",
                remedy="run this with the newest key directory",
            )
        return data


def family_role(family: str) -> str:
    """Name of the delegated role that signs a family's full artifacts."""
    return FAMILY_PREFIX + family


def delta_role(family: str) -> str:
    """Name of the delegated role that signs a family's deltas."""
    return DELTA_PREFIX + family


def target_file(target: FullTarget | DeltaTarget, sha256: str, length: int) -> TargetFile:
    """The signed entry of an artifact of ``length`` bytes. Raises TargetRefused for fields that a vehicle would refuse."""
    if not SHA256.fullmatch(sha256) or length <= 0:
        raise TargetRefused(f"{target.path}: an artifact has a SHA-256 in lower-case hexadecimal and at least one byte")
    return TargetFile(length, {"sha256": sha256}, target.path, _described(target))


def _described(target: FullTarget | DeltaTarget) -> dict[str, Any]:
    """What an entry has beyond length and hashes. Raises TargetRefused."""
    if isinstance(target, DeltaTarget):
        if not SHA256.fullmatch(target.base_sha256) or not SHA256.fullmatch(target.content_sha256):
            raise TargetRefused(f"{target.path}: a delta leads from a SHA-256 in lower-case hexadecimal to another")
        return {}
    custom = target.to_custom()
    try:
        FullTarget.from_custom(custom)
    except Untrusted as exc:
        raise TargetRefused(f"{target.path}: {exc.message}") from exc
    return {"custom": custom}


def _place_of(path: str) -> tuple[str, str]:
    """The family of an artifact of this name, and the delegated role that signs it. Raises TargetRefused."""
    match = re.fullmatch(rf"(models|deltas)/({NAME.pattern})/[^/]+", path)
    if match is None:
        raise TargetRefused(f"{path!r} is not the name of an artifact")
    return match[2], family_role(match[2]) if match[1] == "models" else delta_role(match[2])


def _signing_role(role: str) -> Role:
    if role.startswith(FAMILY_PREFIX):
        return Role.FAMILY
    if role.startswith(DELTA_PREFIX):
        return Role.DELTA
    return TOP_LEVEL_ROLES[Repository.IMAGE][role]


def _is_signed_by(delegator: Root | Targets, role: str, metadata: Metadata[Any]) -> bool:
    try:
        delegator.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, ValueError):  # ValueError: the role is not delegated here
        return False
    return True


def _damaged(name: str, problem: str) -> Untrusted:
    return Untrusted(
        f"the image repository's {name} cannot be built upon: {problem}",
        remedy="restore the metadata store from its backup, or use the key directory it was made with",
    )
