"""Reading a file with a cap, and writing one so that it is there whole or not at all."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from model_registry.contract.errors import LimitExceeded, MalformedArtifact, Refusal


def read_file(path: Path, *, max_bytes: int) -> bytes:
    """The bytes of a regular file. Raises MalformedArtifact when there is none, LimitExceeded above ``max_bytes``."""
    try:
        with path.open("rb") as source:
            status = os.fstat(source.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise MalformedArtifact(f"{path} is not a file")
            if status.st_size > max_bytes:
                raise LimitExceeded(f"{path} has {status.st_size} bytes, the limit is {max_bytes}")
            data = source.read(max_bytes + 1)
    except OSError as exc:
        raise MalformedArtifact(f"{path} cannot be read: {exc.strerror}", remedy="check the name") from exc
    if len(data) > max_bytes:
        raise LimitExceeded(f"{path} grew above the limit of {max_bytes} bytes while it was read")
    return data


def write_file(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data``: beside it first, then renamed. Raises Refusal when the place cannot be written."""
    temporary: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as target:
            target.write(data)
            target.flush()
            os.fsync(target.fileno())
        # mkstemp makes files for the owner alone; what a program hands over follows the user's umask.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as exc:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise Refusal(f"{path} cannot be written: {exc.strerror}", remedy="check that the folder exists and has room") from exc


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
