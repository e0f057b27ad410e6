"""What every artifact store promises, and the rules that no store leaves to its back end.

Keys are relative paths of plain names. An object is written whole or not at all, after its length and digest were checked here;
a key that names a digest never changes; the mutable ones (signed metadata) are replaced atomically, the last writer winning.
Nothing relies on a store's own conditional writes or checksums: not every S3 server has them, and some have them wrongly.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, ClassVar, Protocol

from model_registry.contract.errors import ContentMismatch, LimitExceeded, Refusal, Unreachable

CHUNK_BYTES = 256 * 1024
# Each part starts with a letter or digit, so that "..", hidden files and empty parts are no keys.
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}(/[A-Za-z0-9][A-Za-z0-9._-]{0,199})*")
_MAX_KEY_LENGTH = 512


class InvalidKey(Refusal):
    """A key that no store accepts, or that is at odds with one already there."""

    code: ClassVar[str] = "key_invalid"


class MissingObject(Refusal, KeyError):
    """Nothing is stored under this key."""

    code: ClassVar[str] = "object_missing"

    # KeyError would print the repr of its arguments.
    __str__ = Refusal.__str__


class StorageDenied(Refusal):
    """The store answers and says no: wrong credentials, missing permissions, no such bucket."""

    code: ClassVar[str] = "storage_denied"


class ArtifactStore(Protocol):
    """Where artifacts, uploads and signed metadata lie. Safe to use from several threads and processes.

    Besides what each method names, all raise InvalidKey, StorageDenied, and Unreachable when the store does not answer in time.
    """

    def put(self, key: str, source: BinaryIO | bytes, *, sha256: str | None, size_bytes: int) -> None:
        """Store exactly ``size_bytes`` bytes of ``source``, or leave everything as it was.

        ``sha256`` (lower-case hexadecimal) is checked before the object appears; None is for small mutable objects and skips
        that check. Writing the same again changes nothing. Raises ContentMismatch, NotEnoughSpace.
        """

    def open(self, key: str) -> BinaryIO:
        """The object's bytes from its start; the caller closes it. Raises MissingObject."""

    def read(self, key: str, *, max_bytes: int) -> bytes:
        """The whole object. Raises MissingObject, LimitExceeded."""

    def size(self, key: str) -> int | None:
        """Length in bytes, None when there is no such object."""

    def delete(self, key: str) -> None:
        """Remove the object; one that is not there is fine."""

    def url(self, key: str, *, expires_s: int) -> str | None:
        """An address from which anyone can GET the object, Range included, for at least half of ``expires_s`` seconds.

        None: the store has none, serve the bytes yourself.
        """

    def local_path(self, key: str) -> Path | None:
        """The object as a file of this machine, for those who can hand a file to the kernel; None where it is none.

        Raises MissingObject.
        """


def check_key(key: str) -> str:
    """The key itself. Raises InvalidKey."""
    if len(key) > _MAX_KEY_LENGTH or not _KEY.fullmatch(key):
        raise InvalidKey(
            f"{key[:80]!r} is not a storage key", remedy="use plain names of letters, digits, '.', '_', '-', parted by '/'"
        )
    return key


def checked_chunks(key: str, source: BinaryIO | bytes, *, sha256: str | None, size_bytes: int) -> Iterator[bytes]:
    """The source in pieces, at most one byte beyond ``size_bytes`` read.

    Raises ContentMismatch after the last piece, Unreachable when the source breaks off.
    """
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    digest, found = hashlib.sha256(), 0
    while chunk := _read(key, stream, min(CHUNK_BYTES, size_bytes + 1 - found)):
        digest.update(chunk)
        found += len(chunk)
        if found > size_bytes:
            raise ContentMismatch(f"{key}: the bytes go on after the announced {size_bytes}", remedy="send it again")
        yield chunk
    if found != size_bytes:
        raise ContentMismatch(f"{key}: {found} bytes came, {size_bytes} were announced", remedy="send it again")
    if sha256 is not None and digest.hexdigest() != sha256:
        raise ContentMismatch(f"{key}: the bytes have the digest {digest.hexdigest()}, not {sha256}", remedy="send it again")


def _read(key: str, stream: BinaryIO, size: int) -> bytes:
    try:
        return stream.read(size)
    except OSError as exc:
        raise Unreachable(f"{key}: its source broke off: {exc}", remedy="send it again") from exc


def read_bounded(key: str, stream: BinaryIO, max_bytes: int) -> bytes:
    """All of a stream. Raises LimitExceeded, before more than one byte too many is read."""
    parts, room = [], max_bytes + 1
    while room and (chunk := stream.read(min(CHUNK_BYTES, room))):
        parts.append(chunk)
        room -= len(chunk)
    if not room:
        raise LimitExceeded(f"{key} is above the limit of {max_bytes} bytes")
    return b"".join(parts)
