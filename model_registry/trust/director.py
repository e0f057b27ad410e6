"""The director: for one vehicle, signed online, which full artifact it shall run.

Its targets name the vehicle, so that no other vehicle accepts them, and hold at most one entry, the same as the image
repository's. An empty one says that there is nothing to run. There are no delegations (Uptane 2.1, 5.3.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from tuf.api.metadata import MetaFile, Signed, Snapshot, Targets, Timestamp

from model_registry.contract.messages import VEHICLE_ID
from model_registry.contract.targets import FullTarget
from model_registry.trust.image_repository import TargetRefused, target_file
from model_registry.trust.keys import Keyring
from model_registry.trust.roots import TOP_LEVEL_ROLES, Repository, root_chain
from model_registry.trust.signing import Clock, expiry, sign, utc_now

# Reading and checking the roots takes as long as signing for a vehicle; they change about twice a year.
ROOTS_KEPT_FOR = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class DirectorMetadata:
    """The files of one vehicle's director repository by name, and when the first of them expires (UTC)."""

    version: int
    files: Mapping[str, bytes]
    expires: datetime


class Director:
    """Signs with the director's online keys. Who assigns keeps the version of each vehicle."""

    def __init__(self, keyring: Keyring, clock: Clock = utc_now) -> None:
        self._keyring = keyring
        self._clock = clock
        self._root_files: dict[str, bytes] = {}
        self._roots_read: datetime | None = None

    def root(self) -> bytes:
        """The newest root: what a vehicle embeds. Raises KeyringRefused."""
        return root_chain(self._keyring, Repository.DIRECTOR, self._clock())[-1]

    def sign(self, vehicle_id: str, target: tuple[FullTarget, str, int] | None, version: int) -> DirectorMetadata:
        """Sign what ``vehicle_id`` shall run: a target with its artifact's SHA-256 and length in bytes, or nothing.

        ``version`` must grow whenever the target changes or the files are signed again; a vehicle refuses a lower one and
        ignores other bytes under the same one. Raises TargetRefused, KeyringRefused.
        """
        if not VEHICLE_ID.fullmatch(vehicle_id):
            raise TargetRefused(f"{vehicle_id!r} is not a vehicle id")
        if version < 1:
            raise TargetRefused("director versions begin at 1")
        now = self._clock()
        targets = Targets(version, unrecognized_fields={"vehicle_id": vehicle_id})
        if target is not None:
            file = target_file(*target)
            targets.targets[file.path] = file
        snapshot = Snapshot(version, meta={"targets.json": MetaFile(version)})
        timestamp = Timestamp(version, snapshot_meta=MetaFile(version))
        signed = {f"{version}.targets.json": targets, f"{version}.snapshot.json": snapshot, "timestamp.json": timestamp}
        files = {name: self._signed(content, now) for name, content in signed.items()}
        return DirectorMetadata(version, {**self._roots(now), **files}, min(content.expires for content in signed.values()))

    def _signed(self, content: Signed, now: datetime) -> bytes:
        content.expires = expiry(content, now)
        return sign(content, self._keyring, TOP_LEVEL_ROLES[Repository.DIRECTOR][content.type])

    def _roots(self, now: datetime) -> dict[str, bytes]:
        if self._roots_read is None or not timedelta(0) <= now - self._roots_read < ROOTS_KEPT_FOR:
            chain = root_chain(self._keyring, Repository.DIRECTOR, now)
            self._root_files = {f"{number}.root.json": data for number, data in enumerate(chain, start=1)}
            self._roots_read = now
        return self._root_files
