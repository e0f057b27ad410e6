"""What every store promises."""

from __future__ import annotations

import hashlib
import io
import itertools
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from model_registry.contract.errors import ContentMismatch, LimitExceeded, Unreachable
from model_registry.storage import ArtifactStore, InvalidKey, MissingObject

KEY = "models/signs/1.0.0.dfm"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def put(store: ArtifactStore, key: str, data: bytes) -> None:
    store.put(key, data, sha256=sha256(data), size_bytes=len(data))


ACTIONS: list[Callable[[ArtifactStore, str], object]] = [
    lambda store, key: store.put(key, b"x", sha256=None, size_bytes=1),
    lambda store, key: store.open(key),
    lambda store, key: store.read(key, max_bytes=1),
    lambda store, key: store.size(key),
    lambda store, key: store.delete(key),
    lambda store, key: store.url(key, expires_s=60),
    lambda store, key: store.local_path(key),
]


class Endless(io.RawIOBase):
    """A source that never stops; counts what was taken from it."""

    taken = 0

    def read(self, size: int = -1) -> bytes:
        self.taken += size
        return b"x" * size


class Broken(io.RawIOBase):
    """A source that is cut off: some bytes, then an error."""

    def __init__(self) -> None:
        self._parts = [b"half"]

    def read(self, size: int = -1) -> bytes:
        if self._parts:
            return self._parts.pop()
        raise ConnectionResetError("the uploader is gone")


@pytest.mark.parametrize(
    "data", [b"", b"a", bytes(range(256)) * 4096, b"z" * 5_000_000], ids=["empty", "byte", "1 MiB", "5 MB"]
)
def test_what_was_put_is_read_back(store: ArtifactStore, data: bytes) -> None:
    store.put(KEY, io.BytesIO(data), sha256=sha256(data), size_bytes=len(data))

    assert store.size(KEY) == len(data)
    assert store.read(KEY, max_bytes=len(data)) == data
    with store.open(KEY) as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == sha256(data)  # type: ignore[arg-type]


def test_a_store_starts_empty_and_says_so(store: ArtifactStore) -> None:
    assert store.size(KEY) is None
    store.delete(KEY)
    with pytest.raises(MissingObject, match=KEY):
        store.open(KEY)
    with pytest.raises(KeyError):
        store.read(KEY, max_bytes=10)


@pytest.mark.parametrize(
    ("announced_sha256", "announced_bytes"),
    [(sha256(b"other"), 7), (sha256(b"content"), 6), (sha256(b"content"), 8), (None, 6), (None, 8)],
    ids=["digest", "longer", "shorter", "longer, no digest", "shorter, no digest"],
)
def test_wrong_bytes_never_appear(store: ArtifactStore, announced_sha256: str | None, announced_bytes: int) -> None:
    with pytest.raises(ContentMismatch):
        store.put(KEY, io.BytesIO(b"content"), sha256=announced_sha256, size_bytes=announced_bytes)
    assert store.size(KEY) is None


def test_a_failed_put_leaves_the_old_object(store: ArtifactStore) -> None:
    put(store, KEY, b"old")
    with pytest.raises(ContentMismatch):
        store.put(KEY, b"new", sha256=sha256(b"other"), size_bytes=3)
    with pytest.raises(Unreachable):
        store.put(KEY, Broken(), sha256=sha256(b"halfhalf"), size_bytes=8)  # type: ignore[arg-type]
    assert store.read(KEY, max_bytes=10) == b"old"


def test_an_endless_source_is_cut_at_what_was_announced(store: ArtifactStore) -> None:
    source = Endless()
    with pytest.raises(ContentMismatch):
        store.put(KEY, source, sha256=sha256(b""), size_bytes=1000)  # type: ignore[arg-type]
    assert source.taken == 1001


def test_putting_the_same_again_changes_nothing(store: ArtifactStore) -> None:
    put(store, KEY, b"content")
    put(store, KEY, b"content")
    assert store.read(KEY, max_bytes=10) == b"content"


def test_a_mutable_object_is_replaced(store: ArtifactStore) -> None:
    store.put("metadata/timestamp.json", b"one", sha256=None, size_bytes=3)
    store.put("metadata/timestamp.json", b"second", sha256=None, size_bytes=6)
    assert store.read("metadata/timestamp.json", max_bytes=10) == b"second"


def test_a_reader_goes_on_while_the_object_is_replaced(store: ArtifactStore) -> None:
    old, new = b"o" * 3_000_000, b"n" * 3_000_000
    put(store, KEY, old)
    with store.open(KEY) as file:
        start = file.read(10)
        put(store, KEY, new)
        rest = file.read()
    assert start + rest in (old, new)


def test_of_many_writers_one_wins_whole(store: ArtifactStore) -> None:
    contents = [bytes([n]) * 200_000 for n in range(6)]
    threads = [threading.Thread(target=put, args=(store, KEY, content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert store.read(KEY, max_bytes=200_000) in contents


def test_reading_stops_at_the_limit(store: ArtifactStore) -> None:
    put(store, KEY, b"x" * 1001)
    with pytest.raises(LimitExceeded):
        store.read(KEY, max_bytes=1000)
    assert len(store.read(KEY, max_bytes=1001)) == 1001


def test_a_deleted_object_is_gone(store: ArtifactStore) -> None:
    put(store, KEY, b"content")
    store.delete(KEY)
    assert store.size(KEY) is None


NO_KEYS = [
    "",
    "/etc/passwd",
    "..",
    "../x",
    "a/../b",
    "a//b",
    "a/",
    ".hidden",
    "a/.b",
    "a b",
    "a\x00b",
    "a\n",
    "ä",
    "a\\b",
    "-a",
]
TOO_LONG = ["x" * 201, "/".join(["d" * 100] * 6)]


def test_a_key_that_is_no_plain_path_is_refused_everywhere(store: ArtifactStore) -> None:
    for key, action in itertools.product([*NO_KEYS, *TOO_LONG], ACTIONS):
        with pytest.raises(InvalidKey):
            action(store, key)


def test_the_names_of_metadata_and_targets_are_keys(store: ArtifactStore) -> None:
    for key in ("1.root.json", "models/signs/2.0.0-RC1.dfm", "targets/" + "0" * 64 + ".x_y-z.dfd", "a..b"):
        put(store, key, b"x")
        assert store.size(key) == 1


def test_an_object_has_an_address_or_is_a_file_or_is_read(store: ArtifactStore, tmp_path: Path) -> None:
    put(store, KEY, b"content")
    url, path = store.url(KEY, expires_s=600), store.local_path(KEY)
    assert (url is None) != (path is None)
    assert path is None or path.read_bytes() == b"content"
