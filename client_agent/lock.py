"""One agent a state directory: two would write each other's slots."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model_registry.contract.errors import Refusal

ATTEMPTS, PAUSE_S = 10, 0.05


class DirectoryInUse(Refusal):
    """Another agent works on this state directory."""

    code = "directory_in_use"


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the directory for this process; the kernel lets go of it however the process ends. Raises DirectoryInUse.

    Waits a moment: a look at the status holds it too, and an agent's start must not fail for that.
    """
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if not _taken(descriptor):
            raise DirectoryInUse(f"another agent works on {directory}", remedy="stop it first, or ask it")
        yield
    finally:
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    for _ in range(ATTEMPTS):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(PAUSE_S)
        else:
            return True
    return False


def is_locked(directory: Path) -> bool:
    """Whether an agent works on the directory now."""
    try:
        with locked(directory):
            return False
    except DirectoryInUse:
        return True
