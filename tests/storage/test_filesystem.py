"""What only files can do wrong: links, full disks, power cuts, strangers in the directory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from model_registry.storage import ArtifactStore, InvalidKey, MissingObject
from model_registry.storage.filesystem import FilesystemStore

KEY = "models/signs/1.0.0.dfm"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def files(root: Path) -> FilesystemStore:
    return FilesystemStore(root)


def every_access(store: ArtifactStore, key: str) -> None:
    """Each must be refused as a key that is no plain file."""
    for action in (
        lambda: store.open(key),
        lambda: store.read(key, max_bytes=100),
        lambda: store.size(key),
        lambda: store.local_path(key),
    ):
        with pytest.raises(InvalidKey):
            action()


def test_a_link_to_a_file_is_not_followed(files: FilesystemStore, root: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (root / "leak").symlink_to(secret)
    every_access(files, "leak")


def test_a_link_to_a_folder_is_not_followed(files: FilesystemStore, root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (root / "models").symlink_to(outside)
    every_access(files, "models/secret")
    with pytest.raises(InvalidKey):
        files.put("models/new", b"x", sha256=None, size_bytes=1)
    with pytest.raises(InvalidKey):
        files.delete("models/secret")
    assert sorted(entry.name for entry in outside.iterdir()) == ["secret"]


def test_writing_over_a_link_replaces_the_link(files: FilesystemStore, root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("untouched")
    (root / "object").symlink_to(outside)
    files.put("object", b"new", sha256=None, size_bytes=3)
    assert outside.read_text() == "untouched"
    assert files.read("object", max_bytes=10) == b"new"


def test_a_folder_or_a_pipe_is_no_object(files: FilesystemStore, root: Path) -> None:
    (root / "folder").mkdir()
    os.mkfifo(root / "pipe")
    every_access(files, "folder")
    every_access(files, "pipe")
    with pytest.raises(InvalidKey):
        files.put("folder", b"x", sha256=None, size_bytes=1)
    with pytest.raises(InvalidKey):
        files.delete("folder")


def test_a_key_cannot_be_the_folder_of_another(files: FilesystemStore) -> None:
    files.put("a", b"x", sha256=None, size_bytes=1)
    with pytest.raises(InvalidKey):
        files.put("a/b", b"y", sha256=None, size_bytes=1)
    assert files.read("a", max_bytes=1) == b"x"


def test_a_missing_object_has_no_path(files: FilesystemStore) -> None:
    with pytest.raises(MissingObject):
        files.local_path(KEY)


def left_behind(root: Path) -> list[str]:
    return [entry.name for entry in (root / ".incoming").iterdir()]


FILL = """
import resource, signal, sys
from pathlib import Path
from model_registry.contract.errors import NotEnoughSpace
from model_registry.storage.filesystem import FilesystemStore
store = FilesystemStore(Path(sys.argv[1]))
limit = int(sys.argv[2])
if limit:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
data = b"x" * 2_000_000
try:
    store.put("model", data, sha256=None, size_bytes=len(data))
except NotEnoughSpace as refusal:
    assert "free space" in str(refusal)
    raise SystemExit(42)
"""


def fill(root: Path, limit_bytes: int, *prefix: str) -> int:
    """Put 2 MB in a process whose files may have ``limit_bytes`` (0: any size); its exit status, 42 for NotEnoughSpace."""
    command = [*prefix, sys.executable, "-c", FILL, str(root), str(limit_bytes)]
    return subprocess.run(command, check=False, timeout=60).returncode


def test_a_file_beyond_the_quota_leaves_the_old_object_and_nothing_else(files: FilesystemStore, root: Path) -> None:
    files.put("model", b"old", sha256=None, size_bytes=3)
    assert fill(root, 1_000_000) == 42
    assert files.read("model", max_bytes=10) == b"old"
    assert left_behind(root) == []


def test_a_full_disk_leaves_the_old_object_and_nothing_else(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=False, capture_output=True, timeout=10
    )
    if mounted.returncode:
        pytest.skip("may not mount a small disk here; the quota's test covers the same path")
    try:
        files = FilesystemStore(disk)
        files.put("model", b"old", sha256=None, size_bytes=3)
        assert fill(disk, 0) == 42
        assert files.read("model", max_bytes=10) == b"old"
        assert left_behind(disk) == []
    finally:
        subprocess.run(["umount", disk], check=True, timeout=10)


DIE = """
import io, os, sys
from pathlib import Path
from model_registry.storage.filesystem import FilesystemStore
class Dying(io.RawIOBase):
    parts = [b"half of the new"]
    def read(self, size=-1):
        if self.parts: return self.parts.pop()
        os.kill(os.getpid(), 9)
FilesystemStore(Path(sys.argv[1])).put("model", Dying(), sha256=None, size_bytes=100)
"""


def test_a_killed_writer_leaves_the_old_object_and_its_rest_goes_after_a_day(files: FilesystemStore, root: Path) -> None:
    files.put("model", b"old", sha256=None, size_bytes=3)
    assert subprocess.run([sys.executable, "-c", DIE, str(root)], check=False, timeout=60).returncode == -9
    assert files.read("model", max_bytes=10) == b"old"

    (rest,) = left_behind(root)
    FilesystemStore(root)
    assert left_behind(root) == [rest], "another writer may still be at it"
    yesterday = time.time() - 90_000
    os.utime(root / ".incoming" / rest, (yesterday, yesterday))
    FilesystemStore(root)
    assert left_behind(root) == []


def test_objects_are_not_for_everyone_to_write(files: FilesystemStore, root: Path) -> None:
    files.put(KEY, b"x", sha256=None, size_bytes=1)
    assert (root / KEY).stat().st_mode & 0o022 == 0
