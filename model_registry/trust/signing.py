"""What every signed file has in common: how long it lives, when it is due again, and how it becomes bytes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, Root, Signed, Snapshot, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from model_registry.trust.keys import Keyring, KeyringRefused, Role

Clock = Callable[[], datetime]

# By type: the more often a key is used, and the easier it is to steal, the shorter its signature counts.
LIFETIMES = {
    Root.type: timedelta(days=365),
    Targets.type: timedelta(days=90),
    Snapshot.type: timedelta(days=7),
    Timestamp.type: timedelta(days=1),
}


def utc_now() -> datetime:
    """The clock where none is injected."""
    return datetime.now(UTC)


def expiry(signed: Signed, now: datetime) -> datetime:
    """When this kind of file expires if it is signed now; whole seconds, UTC."""
    return (now + LIFETIMES[signed.type]).replace(microsecond=0)


def is_due(signed: Signed, now: datetime) -> bool:
    """Whether less than half of the lifetime is left: early enough that a missed renewal is repaired before vehicles notice."""
    return signed.expires - now < LIFETIMES[signed.type] / 2


def sign(signed: Signed, keyring: Keyring, *roles: Role) -> bytes:
    """The file: ``signed`` with the signatures of every key at hand for ``roles``. Raises KeyringRefused."""
    metadata: Metadata[Any] = Metadata(signed)
    for signer in [signer for role in roles for signer in keyring.signers(role)]:
        try:
            metadata.sign(signer, append=True)
        except UnsignedMetadataError as exc:
            raise KeyringRefused(
                f"signing {signed.type} failed: {exc}", remedy="see whether the key's custodian answers"
            ) from exc
    return metadata.to_bytes(JSONSerializer(compact=True))
