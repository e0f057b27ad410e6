"""From a name in signed metadata to a file of exactly those bytes, however often the network is cut.

Bytes gather in ``<sha256>.part`` and go on where they ended, after a cut or a restart. A file gets its final name,
``<sha256>``, only when its length and digest are the signed ones; whoever finds that name finds verified bytes.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from client_agent.journal import sync_directory
from client_agent.stop import StopSignal
from client_agent.transport import HttpStatus, Transport
from model_registry.contract.errors import NotEnoughSpace, Untrusted

log = logging.getLogger(__name__)
CHECKPOINT_BYTES = 256 * 1024
# What a nearly full disk is left with, so that the journal can always be written.
RESERVE_BYTES = 1024 * 1024


class SignedFile(Protocol):
    """Where a file is, and what signed metadata says it is; ``length`` in bytes."""

    @property
    def url(self) -> str: ...

    @property
    def length(self) -> int: ...

    @property
    def sha256(self) -> str: ...


class Staging:
    """The directory of files on their way."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path(self, sha256: str) -> Path:
        """Where a verified file stands."""
        return self._directory / sha256

    def part(self, sha256: str) -> Path:
        """Where the bytes of an unfinished download stand."""
        return self._directory / f"{sha256}.part"

    def keep_only(self, *sha256s: str) -> None:
        """Remove every file, finished or not, that is not one of these."""
        kept = {path for sha256 in sha256s for path in (self.path(sha256), self.part(sha256))}
        for path in self._directory.iterdir():
            if path not in kept:
                path.unlink(missing_ok=True)

    def require_space(self, size_bytes: int) -> None:
        """Raises NotEnoughSpace unless ``size_bytes`` and a reserve are free."""
        system = os.statvfs(self._directory)
        free = system.f_bavail * system.f_frsize
        if free < size_bytes + RESERVE_BYTES:
            raise NotEnoughSpace(
                f"{free} bytes are free, {size_bytes + RESERVE_BYTES} are needed", remedy="free space on the vehicle"
            )


class Downloader:
    """Fetches signed files into a staging directory."""

    def __init__(self, staging: Staging, stop: StopSignal) -> None:
        self._staging = staging
        self._stop = stop

    def fetch(self, transport: Transport, file: SignedFile, checkpoint: Callable[[], None]) -> Path:
        """Return the path of the verified file, downloading what is missing of it; ``checkpoint`` is called now and then.

        Raises Unreachable (the part stays for the next attempt), Untrusted when the bytes are not the signed ones,
        NotEnoughSpace, OSError, Stopped.
        """
        final = self._staging.path(file.sha256)
        if final.is_file() and _digest(final) == (file.length, file.sha256):
            return final
        part = self._staging.part(file.sha256)
        resumed = part.is_file() and part.stat().st_size > 0
        self._fill(transport, file, part, checkpoint)
        if _digest(part) != (file.length, file.sha256) and resumed:
            # The first half may have been damaged on this disk; the server gets one chance to prove itself alone.
            log.warning("the resumed download of %s is damaged, starting again", file.sha256)
            part.unlink()
            self._fill(transport, file, part, checkpoint)
        if _digest(part) != (file.length, file.sha256):
            part.unlink()
            raise Untrusted("a downloaded file is not the one that was signed", remedy="check the storage behind the registry")
        return self._finish(part, final)

    def _fill(self, transport: Transport, file: SignedFile, part: Path, checkpoint: Callable[[], None]) -> None:
        start = part.stat().st_size if part.is_file() else 0
        if start > file.length:
            part.unlink()
            start = 0
        if start == file.length:
            return
        self._staging.require_space(file.length - start)
        try:
            self._append(transport, file, part, start, checkpoint)
        except HttpStatus as exc:
            if exc.status == 416:
                part.unlink(missing_ok=True)
            raise

    def _append(self, transport: Transport, file: SignedFile, part: Path, start: int, checkpoint: Callable[[], None]) -> None:
        since_checkpoint = 0
        with part.open("ab") as out:
            for chunk in transport.get(file.url, max_bytes=file.length - start, start=start):
                out.write(chunk)
                since_checkpoint += len(chunk)
                if since_checkpoint >= CHECKPOINT_BYTES:
                    out.flush()
                    checkpoint()
                    since_checkpoint = 0
                self._stop.check()

    def _finish(self, part: Path, final: Path) -> Path:
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(final)
        sync_directory(final.parent)
        return final


def _digest(path: Path) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            size += len(block)
    return size, digest.hexdigest()
