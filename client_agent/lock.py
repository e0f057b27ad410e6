"""One agent a state directory: two would write each other's slots."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model_registry.contract.errors import Refusal


class DirectoryInUse(Refusal):
    """Another agent works on this state directory."""

    code = "directory_in_use"


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the directory for this process; the kernel lets go of it however the process ends. Raises DirectoryInUse."""
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise DirectoryInUse(f"another agent works on {directory}", remedy="stop it first, or ask it") from exc
        yield
    finally:
        os.close(descriptor)


def is_locked(directory: Path) -> bool:
    """Whether an agent works on the directory now."""
    try:
        with locked(directory):
            return False
    except DirectoryInUse:
        return True
