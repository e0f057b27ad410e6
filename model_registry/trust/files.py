"""Durable writes in a key directory: after a power cut a file is whole or absent, and private files stay private."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path


def replace_durably(path: Path, data: bytes) -> None:
    """Put ``data`` in place of the file in one step."""
    temporary = _written_aside(path, data, mode=0o644)
    temporary.replace(path)
    _sync(path.parent)


def create_once(path: Path, data: bytes, *, mode: int) -> bool:
    """Create the file with ``data`` unless it exists; False when it does. Two that race agree on one of them."""
    temporary = _written_aside(path, data, mode=mode)
    try:
        # A hard link refuses an existing name, as open(O_EXCL) does, but never shows a half-written file.
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
    _sync(path.parent)
    return True


def _written_aside(path: Path, data: bytes, *, mode: int) -> Path:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())
    return Path(name)


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
