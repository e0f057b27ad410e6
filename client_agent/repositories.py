"""The vehicle's two trusted repositories: fetch signed metadata, have it verified, keep it, and let ``trust`` decide.

The TUF client (``tuf.ngclient``) checks signatures, versions and expiry. What it leaves to its user is done here: its clock,
caps of our own on every download, errors that tell *untrusted* from *unreachable*, and a cache that is written durably and
only with what belongs to this vehicle.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tuf.api import exceptions as tuf_errors
from tuf.api.metadata import TargetFile, Targets
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet

from client_agent.journal import DurableFile, write_durably
from client_agent.transport import HttpStatus, Transport
from client_agent.trust import (
    VerifiedFile,
    VerifiedTarget,
    agreed_delta,
    agreed_target,
    assigned_file,
    check_fit,
    check_saving,
    described,
    expected_delta,
    passed_content,
    reference_time,
    sha256_of,
    target_url,
)
from model_registry.contract.errors import LimitExceeded, MetadataExpired, RollbackRefused, Unreachable, Untrusted
from model_registry.contract.fields import SHA256, Fields
from model_registry.contract.messages import Hop

KIB = 1024
# By file, whatever a timestamp or snapshot says its length is: a stolen online key must not fill a vehicle's memory.
MAX_METADATA_BYTES = {"root": 64 * KIB, "timestamp": 16 * KIB, "snapshot": 512 * KIB}
MAX_TARGETS_BYTES = 1024 * KIB
MAX_CACHED_FILES = 1024

CONFIG = UpdaterConfig(
    max_root_rotations=32,  # in one go; the next check continues from there
    max_delegations=4,  # targets, and the family's role
    root_max_length=MAX_METADATA_BYTES["root"],
    timestamp_max_length=MAX_METADATA_BYTES["timestamp"],
    snapshot_max_length=MAX_METADATA_BYTES["snapshot"],
    targets_max_length=MAX_TARGETS_BYTES,
)


class TransportFetcher(FetcherInterface):
    """Fetches metadata for the TUF client through the agent's transport, under caps of our own and without temporary files."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """One metadata file. Raises DownloadHTTPError for 403 and 404 (the TUF client asks so), Untrusted, Unreachable."""
        role = urlsplit(url).path.rpartition("/")[2].removesuffix(".json").rpartition(".")[2]
        cap = min(max_length, MAX_METADATA_BYTES.get(role, MAX_TARGETS_BYTES))
        try:
            return b"".join(self._transport.get(url, max_bytes=cap))
        except HttpStatus as exc:
            if exc.status in (403, 404):
                raise tuf_errors.DownloadHTTPError(exc.message, exc.status) from exc
            raise
        except LimitExceeded as exc:
            raise Untrusted(f"a metadata file is larger than any honest one: {exc.message}") from exc

    def _fetch(self, url: str) -> Iterator[bytes]:
        yield self.download_bytes(url, MAX_TARGETS_BYTES)


class TrustedRepositories:
    """Both repositories of one vehicle.

    ``directory`` holds the embedded roots ``image-root.json`` and ``director-root.json``, the metadata caches, and the last
    trusted time. ``base_url`` is the registry's address. ``clock`` and ``build_time`` are UTC. Used by one process at a time.
    """

    def __init__(
        self,
        directory: Path,
        transport: Transport,
        *,
        base_url: str,
        vehicle_id: str,
        hardware_id: str,
        clock: Callable[[], datetime],
        build_time: datetime,
    ) -> None:
        base = f"{base_url.rstrip('/')}/repo"
        fetcher = TransportFetcher(transport)
        self._vehicle_id = vehicle_id
        self._hardware_id = hardware_id
        self._clock = clock
        self._build_time = build_time
        self._targets_url = f"{base}/image/targets"
        self._image = _Repository("image", directory, f"{base}/image/metadata", fetcher)
        self._director = _Repository("director", directory, f"{base}/director/{vehicle_id}/metadata", fetcher)
        self._trusted_time: DurableFile[datetime | None] = DurableFile(directory / "trusted-time.json", _read_time, None)
        self._resolved: VerifiedTarget | None = None

    def resolve(self, *, counter_floor: int) -> VerifiedTarget | None:
        """Learn what this vehicle shall run, by Uptane's full verification; None when that is nothing.

        1. Time: the latest of the clock, the last trusted time and this program's build.
        2. Director: root by root from the embedded one, timestamp, snapshot, targets; signatures, versions, expiry.
        3. The director's targets name this vehicle, delegate nothing, and hold at most one target. Only now are they kept.
        4. Its name, length and hashes are well formed, and its name is that of its description.
        5. Image repository: root by root, timestamp, snapshot, targets, then the family's role for that name.
        6. Both agree on length, every hash and the whole description.
        7. It is for this hardware, and its release counter is not below ``counter_floor``, which is kept outside these caches.

        Whoever downloads it checks length and SHA-256 before parsing, and the content digest after decoding.
        Raises MetadataExpired, RollbackRefused, WrongHardware, Untrusted; Unreachable; OSError when the disk refuses.
        """
        self._resolved = None
        now = reference_time(self._clock(), self._trusted_time.read(), self._build_time)
        assigned = assigned_file(self._director.refresh(now, keep=False), self._vehicle_id)
        self._director.keep()
        if assigned is not None:
            described(assigned)
            self._image.refresh(now, keep=True)
            full = agreed_target(assigned, self._image.find(assigned.path))
            check_fit(full, hardware_id=self._hardware_id, counter_floor=counter_floor)
            url = target_url(self._targets_url, assigned)
            self._resolved = VerifiedTarget(full.path, url, assigned.length, sha256_of(assigned), full)
        self._trusted_time.write(_time_document(now))
        return self._resolved

    def chain(self, hops: Sequence[Hop], *, base_sha256: str) -> tuple[VerifiedFile, ...]:
        """Deltas from the content that runs here to the target that ``resolve`` returned last, in the order of ``hops``.

        Each leads from the content before it to one that the family's role has signed, the last to the target; together they
        are no larger than the full artifact. Raises as ``resolve``, HopUnknown; RuntimeError when nothing is resolved, for
        a delta alone proves nothing.
        """
        target = self._resolved
        if target is None:
            raise RuntimeError("resolve a target before its deltas")
        if not hops or hops[-1].target_path != target.path:
            raise Untrusted("the deltas lead to another content than the one that director and image repository agree on")
        chain: list[VerifiedFile] = []
        for hop in hops:
            chain.append(self._hop(hop, base_sha256, target))
            check_saving(chain, target)
            base_sha256 = chain[-1].delta.content_sha256
        return tuple(chain)

    def _hop(self, hop: Hop, base_sha256: str, target: VerifiedTarget) -> VerifiedFile:
        leads_on = hop.target_path != target.path
        full = passed_content(hop.target_path, self._image.find(hop.target_path), target) if leads_on else target.full
        wanted = expected_delta(hop.delta_path, base_sha256=base_sha256, full=full)
        file = agreed_delta(self._image.find(wanted.path), wanted)
        url = target_url(self._targets_url, file)
        return VerifiedFile(wanted.path, url, file.length, sha256_of(file), wanted, full.content_bytes)


class _Repository:
    """One TUF repository: its embedded root, a durable cache, and a client over a working copy of that cache.

    The client writes each file as soon as its own checks pass. What fails a later check must not stay: another vehicle's
    director metadata with a high version number would lock this vehicle out for good. Hence the copy, and ``keep``.
    """

    def __init__(self, name: str, directory: Path, url: str, fetcher: FetcherInterface) -> None:
        self._name = name
        self._root = directory / f"{name}-root.json"
        self._cache = directory / name
        self._work = directory / f"{name}.work"
        self._url = url
        self._fetcher = fetcher
        self._updater: Updater | None = None
        self._now = datetime.min.replace(tzinfo=UTC)

    def refresh(self, now: datetime, *, keep: bool) -> Targets:
        """Fetch and verify the top-level roles as of ``now``. Roots are kept in any case; the rest at once if ``keep``."""
        self._now = now
        self._copy_cache()
        try:
            with self._refusals():
                self._updater = self._client()
                self._updater.refresh()
                return _trusted_set(self._updater).targets
        finally:
            self.keep(roots_only=not keep)

    def find(self, path: str) -> TargetFile | None:
        """The verified entry of ``path`` in the edition that ``refresh`` saw."""
        if self._updater is None:
            raise RuntimeError("refresh before find")
        try:
            with self._refusals():
                return self._updater.get_targetinfo(path)
        finally:
            self.keep()

    def keep(self, *, roots_only: bool = False) -> None:
        """Make durable what is verified; a cache that cannot be written over is damaged, and made anew."""
        files = [path for path in sorted(self._work.rglob("*.json")) if path.is_file() and not path.is_symlink()]
        wanted = [path for path in files if path.parent.name == "root_history" or not roots_only]
        try:
            self._store(wanted)
        except (FileExistsError, IsADirectoryError, NotADirectoryError):
            _remove(self._cache)
            self._store(wanted)

    def _client(self) -> Updater:
        try:
            root = self._root.read_bytes()
        except OSError as exc:
            raise Untrusted(f"{self._root} cannot be read: {exc.strerror}", remedy="install the roots again") from exc
        updater = Updater(str(self._work), self._url, fetcher=self._fetcher, config=CONFIG, bootstrap=root)
        # The client has no parameter for its clock; without this a vehicle that thinks it is 1970 takes stale metadata.
        _trusted_set(updater).reference_time = self._now
        return updater

    def _copy_cache(self) -> None:
        _remove(self._work)
        (self._work / "root_history").mkdir(parents=True)
        for path in islice(self._cache.rglob("*.json"), MAX_CACHED_FILES):
            with suppress(OSError):  # what cannot be read is fetched again
                if path.stat().st_size <= MAX_TARGETS_BYTES:
                    (self._work / path.relative_to(self._cache)).write_bytes(path.read_bytes())

    def _store(self, files: list[Path]) -> None:
        (self._cache / "root_history").mkdir(parents=True, exist_ok=True)
        for path in files:
            kept, data = self._cache / path.relative_to(self._work), path.read_bytes()
            if not _holds(kept, data):
                write_durably(kept, data)

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """Say in the agent's words what the TUF client found."""
        try:
            yield
        except tuf_errors.ExpiredMetadataError as exc:
            raise MetadataExpired(
                f"{self._name} repository: {exc}, judged at {self._now:%Y-%m-%d %H:%M} UTC",
                remedy="see whether the registry still renews its metadata, and whether this vehicle's clock is right",
            ) from exc
        except tuf_errors.BadVersionNumberError as exc:
            raise RollbackRefused(f"{self._name} repository: {exc}") from exc
        except (tuf_errors.RepositoryError, ValueError, TypeError, AttributeError, LookupError) as exc:
            # The last four: well-signed nonsense, such as a role whose name is a number; the client's types are not checked.
            raise Untrusted(f"{self._name} repository: {exc}") from exc
        except tuf_errors.DownloadError as exc:
            raise Unreachable(f"{self._name} repository: {exc}") from exc


def _trusted_set(updater: Updater) -> TrustedMetadataSet:
    return updater._trusted_set  # noqa: SLF001 - no public way to its clock and its targets; tuf is pinned for this


def _holds(path: Path, data: bytes) -> bool:
    return path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _time_document(time: datetime) -> dict[str, Any]:
    text = time.isoformat()
    return {"time": text, "check": hashlib.sha256(text.encode()).hexdigest()}


def _read_time(document: Any) -> datetime:
    """With a check sum: one flipped bit would put the last trusted time beyond every expiry, for ever."""
    fields = Fields(document, Untrusted, "trusted-time").only("time", "check")
    time = datetime.fromisoformat(fields.text("time"))
    if fields.text("check", pattern=SHA256) != _time_document(time)["check"]:
        raise Untrusted("the last trusted time is damaged")
    return time.astimezone(UTC)
