"""The two roots: which keys the image repository and the director stand on. A vehicle embeds one of each.

They are public and lie beside the keys, in ``roots/<repository>/<version>.root.json``, so that a machine without root keys can
serve them. A version is never changed; the next one is signed when ``keys.json`` names other keys or when half of the life
of the present one is over. It must carry the signatures that its predecessor asks for (TUF 5.3: a vehicle walks from root to
root), so to change a root key, name the old and the new one together for one version.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from pathlib import Path

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp
from tuf.api.metadata import Role as TufRole

from model_registry.trust.files import create_once
from model_registry.trust.keys import Keyring, KeyringRefused, Role
from model_registry.trust.signing import expiry, is_due, sign


class Repository(StrEnum):
    """The two sources that must agree before a vehicle installs anything (Uptane)."""

    IMAGE = "image"
    DIRECTOR = "director"


TOP_LEVEL_ROLES = {
    Repository.IMAGE: {
        Root.type: Role.ROOT,
        Targets.type: Role.TARGETS,
        Snapshot.type: Role.SNAPSHOT,
        Timestamp.type: Role.TIMESTAMP,
    },
    Repository.DIRECTOR: {
        Root.type: Role.DIRECTOR_ROOT,
        Targets.type: Role.DIRECTOR_TARGETS,
        Snapshot.type: Role.DIRECTOR_SNAPSHOT,
        Timestamp.type: Role.DIRECTOR_TIMESTAMP,
    },
}


def root_chain(keyring: Keyring, repository: Repository, now: datetime) -> list[bytes]:
    """Every root so far, version 1 first; the first or next one is signed here when it is due and the keys are at hand.

    Raises KeyringRefused when there is no root yet and none can be signed.
    """
    chain = read_chain(keyring.directory, repository)
    wanted = _next_root(keyring, repository, chain, now)
    root_role = TOP_LEVEL_ROLES[repository][Root.type]
    if wanted is None or (chain and not keyring.can_sign(root_role)):
        return chain
    data = sign(wanted, keyring, root_role)
    _check_succession(data, chain)
    directory = _folder(keyring.directory, repository)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        create_once(directory / f"{wanted.version}.root.json", data, mode=0o644)
    except OSError as exc:
        if chain:
            return chain  # a directory that is mounted read-only renews its roots elsewhere
        raise KeyringRefused(f"{directory} cannot be written: {exc.strerror}") from exc
    return read_chain(keyring.directory, repository)


def parse_root(data: bytes) -> Root:
    """Read one's own root. Raises KeyringRefused."""
    try:
        return Metadata[Root].from_bytes(data).signed
    except RepositoryError as exc:
        raise KeyringRefused("a root file is damaged", remedy="restore the key directory from its backup") from exc


def read_chain(key_directory: Path, repository: Repository) -> list[bytes]:
    """Every root signed so far, version 1 first."""
    folder = _folder(key_directory, repository)
    chain: list[bytes] = []
    while (path := folder / f"{len(chain) + 1}.root.json").is_file():
        chain.append(path.read_bytes())
    return chain


def _folder(key_directory: Path, repository: Repository) -> Path:
    return key_directory / "roots" / repository.value


def _next_root(keyring: Keyring, repository: Repository, chain: list[bytes], now: datetime) -> Root | None:
    """The root that should follow, or None while the last one is as it should be."""
    root = Root(version=len(chain) + 1, consistent_snapshot=True)
    root.roles = {name: TufRole([], keyring.role_keys(role).threshold) for name, role in TOP_LEVEL_ROLES[repository].items()}
    for name, role in TOP_LEVEL_ROLES[repository].items():
        for key in keyring.public_keys(role):
            root.add_key(key, name)
    root.expires = expiry(root, now)
    if not chain:
        return root
    last = parse_root(chain[-1])
    return root if (last.keys, last.roles) != (root.keys, root.roles) or is_due(last, now) else None


def _check_succession(data: bytes, chain: list[bytes]) -> None:
    metadata = Metadata[Root].from_bytes(data)
    delegator = parse_root(chain[-1]) if chain else metadata.signed
    try:
        delegator.verify_delegate(Root.type, metadata.signed_bytes, metadata.signatures)
    except RepositoryError as exc:
        raise KeyringRefused(
            f"root version {metadata.signed.version} would not be signed by the keys of version {len(chain)}",
            remedy="name the former root keys beside the new ones in keys.json until that version is out",
        ) from exc
