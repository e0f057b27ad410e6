"""Artifacts as files below one directory.

Rules: bytes are written to a temporary file on the same file system, checked while they are written, synced, renamed, and the
directory synced, so that a power cut leaves the old object or the new one. Folders are walked without following links: nothing
below the root can lead out of it.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from model_registry.contract.errors import NotEnoughSpace, Refusal, Unreachable
from model_registry.storage.base import InvalidKey, MissingObject, StorageDenied, check_key, checked_chunks, read_bounded

# A name that no key can have. Temporary files of writers that died are removed after a day.
_INCOMING = ".incoming"
_ABANDONED_AFTER_S = 86_400.0
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class FilesystemStore:
    """An ArtifactStore in a directory, which is made when it is missing."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        (self._root / _INCOMING).mkdir(parents=True, exist_ok=True)
        self._remove_abandoned()

    def put(self, key: str, source: BinaryIO | bytes, *, sha256: str | None, size_bytes: int) -> None:
        with _refusals(key), self._folder(key, create=True) as (folder, name), self._incoming() as (incoming, temporary):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(temporary, flags, 0o640, dir_fd=incoming), "wb") as file:
                for chunk in checked_chunks(key, source, sha256=sha256, size_bytes=size_bytes):
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, name, src_dir_fd=incoming, dst_dir_fd=folder)
            os.fsync(folder)

    def open(self, key: str) -> BinaryIO:
        with _refusals(key), self._folder(key) as (folder, name):
            # O_NONBLOCK: opening a pipe that somebody left there must not wait for its other end.
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise _not_a_file(key)
        return os.fdopen(descriptor, "rb")

    def read(self, key: str, *, max_bytes: int) -> bytes:
        with self.open(key) as file, _refusals(key):
            return read_bounded(key, file, max_bytes)

    def size(self, key: str) -> int | None:
        try:
            return self._status(key).st_size
        except MissingObject:
            return None

    def delete(self, key: str) -> None:
        with suppress(MissingObject), _refusals(key), self._folder(key) as (folder, name):
            os.unlink(name, dir_fd=folder)
            os.fsync(folder)

    def url(self, key: str, *, expires_s: int) -> str | None:  # noqa: ARG002 - files have no address
        check_key(key)
        return None

    def local_path(self, key: str) -> Path | None:
        self._status(key)
        return self._root / key

    def _status(self, key: str) -> os.stat_result:
        with _refusals(key), self._folder(key) as (folder, name):
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            raise _not_a_file(key)
        return status

    @contextmanager
    def _folder(self, key: str, *, create: bool = False) -> Iterator[tuple[int, str]]:
        """Open the folder that holds the key, link by link refused; gives its descriptor and the file's name in it."""
        *folders, name = check_key(key).split("/")
        descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for folder in folders:
                inner = _enter(descriptor, folder, create=create)
                os.close(descriptor)
                descriptor = inner
            yield descriptor, name
        finally:
            os.close(descriptor)

    @contextmanager
    def _incoming(self) -> Iterator[tuple[int, str]]:
        """A fresh name in the folder of temporary files; whatever is left under it is removed."""
        temporary = secrets.token_hex(16)
        descriptor = os.open(self._root / _INCOMING, _FOLDER)
        try:
            yield descriptor, temporary
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=descriptor)
            os.close(descriptor)

    def _remove_abandoned(self) -> None:
        oldest = time.time() - _ABANDONED_AFTER_S
        for temporary in (self._root / _INCOMING).iterdir():
            with suppress(FileNotFoundError):
                if temporary.lstat().st_mtime < oldest:
                    temporary.unlink()


def _enter(parent: int, folder: str, *, create: bool) -> int:
    if create:
        with suppress(FileExistsError):
            os.mkdir(folder, 0o750, dir_fd=parent)
            os.fsync(parent)
    return os.open(folder, _FOLDER, dir_fd=parent)


@contextmanager
def _refusals(key: str) -> Iterator[None]:
    """Turn the system's errors into ours."""
    try:
        yield
    except FileNotFoundError as exc:
        raise MissingObject(f"nothing is stored under {key}") from exc
    except OSError as exc:
        raise _refusal_of(key, exc) from exc


def _refusal_of(key: str, exc: OSError) -> Refusal:
    if exc.errno in _NO_SPACE:
        return NotEnoughSpace(f"{key} does not fit: {exc.strerror}", remedy="free space in the data directory")
    if exc.errno in (errno.ELOOP, errno.ENOTDIR, errno.EISDIR):
        return _not_a_file(key)
    if exc.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StorageDenied(f"no access to {key}: {exc.strerror}", remedy="let this user read and write the data directory")
    return Unreachable(f"{key} cannot be accessed: {exc.strerror}", remedy="look at the data directory's file system")


def _not_a_file(key: str) -> InvalidKey:
    return InvalidKey(
        f"{key} is not a plain file", remedy="a key is never the folder of another, and the data directory holds no links"
    )
