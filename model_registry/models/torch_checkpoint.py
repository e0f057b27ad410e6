"""Reading a torch checkpoint in a child process with limits.

Even with ``weights_only`` torch's unpickler has been broken before (CVE-2025-32434, CVE-2026-24747), and a small zip can
declare gigabytes. So the file is opened by a child that has bounded memory, time and file size and may neither start programs
nor open sockets; the parent reads nothing but the safetensors file that it leaves.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import model_registry
from model_registry.contract.errors import LimitExceeded, MalformedArtifact, Refusal, UnsupportedArtifact
from model_registry.contract.limits import MIB
from model_registry.models.checkpoints import MAX_CHECKPOINT_BYTES, Description, Weights
from model_registry.models.files import read_file, write_file
from model_registry.models.safetensors_file import WEIGHT_NAME, read_safetensors, write_safetensors

DEADLINE_S = 120
CPU_S = 60
# torch itself maps about 1.5 GiB; above that: the file, its tensors, and their copy.
MEMORY_BASE_BYTES = 3072 * MIB
REFUSED_EXIT = 3
_FORBIDDEN = (
    "subprocess.",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "socket.",
    "ctypes.dlopen",
)


def read_torch_checkpoint(path: Path, *, deadline_s: float = DEADLINE_S) -> tuple[Weights, Description]:
    """Weights of a ``.pt`` or ``.pth`` state dict. Raises ArtifactRefused."""
    with tempfile.TemporaryDirectory(prefix="deltafleet-import-") as folder:
        target = Path(folder) / "weights.safetensors"
        root = str(Path(model_registry.__file__).resolve().parent.parent)
        environment = {"PYTHONPATH": root, "OMP_NUM_THREADS": "1", "PATH": os.defpath, "TMPDIR": folder}
        command = [sys.executable, "-P", "-m", __name__, str(path.resolve()), str(target)]
        try:
            done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, timeout=deadline_s, check=False)
        except subprocess.TimeoutExpired as exc:
            raise LimitExceeded(f"reading the checkpoint took longer than {deadline_s:g} s") from exc
        if done.returncode == REFUSED_EXIT:
            raise MalformedArtifact(_last_line(done.stderr), remedy="save it with torch.save(model.state_dict(), path)")
        if done.returncode != 0:
            raise LimitExceeded("the checkpoint broke the limits of memory, time or permission under which it is read")
        return read_safetensors(read_file(target, max_bytes=MAX_CHECKPOINT_BYTES + 2 * MIB))


def _last_line(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "the checkpoint cannot be read"


def _child(source: Path, target: Path) -> None:
    size = source.stat().st_size
    _limit(size)
    # After the limits, and only in the child.
    import torch  # noqa: PLC0415

    # Storage that torch takes for its own workings must exist before the doors close.
    torch.zeros(1)
    _refuse_bomb(source)
    sys.addaudithook(_close_doors)
    loaded = torch.load(source, map_location="cpu", weights_only=True)
    write_file(target, write_safetensors(_weights(loaded), Description()))


def _limit(size: int) -> None:
    if size > MAX_CHECKPOINT_BYTES:
        raise LimitExceeded(f"the checkpoint has {size} bytes, the limit is {MAX_CHECKPOINT_BYTES}")
    limits = {
        resource.RLIMIT_AS: MEMORY_BASE_BYTES + 4 * size,
        resource.RLIMIT_CPU: CPU_S,
        resource.RLIMIT_FSIZE: MAX_CHECKPOINT_BYTES + 2 * MIB,
        resource.RLIMIT_CORE: 0,
    }
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))


def _refuse_bomb(source: Path) -> None:
    """A zip whose members claim more than torch's own files do, which are stored uncompressed, is not from torch.save."""
    if not zipfile.is_zipfile(source):
        return
    with zipfile.ZipFile(source) as archive:
        declared = sum(member.file_size for member in archive.infolist())
    if declared > source.stat().st_size:
        raise LimitExceeded(f"the checkpoint is a zip of {source.stat().st_size} bytes that claims to hold {declared}")


def _close_doors(event: str, _: Any) -> None:
    if event.startswith(_FORBIDDEN):
        raise PermissionError(f"a checkpoint tried {event}")


def _weights(loaded: Any) -> Weights:
    """The state dict, also where a trainer wrapped it or its keys."""
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    if not isinstance(loaded, Mapping) or not loaded:
        raise UnsupportedArtifact("the checkpoint holds no state dict")
    weights: Weights = {}
    for key, value in loaded.items():
        name = str(key).removeprefix("module.")
        # Counters of batch normalisation: no weights, and no engine reads them.
        if name.endswith("num_batches_tracked"):
            continue
        if not WEIGHT_NAME.fullmatch(name) or not hasattr(value, "is_floating_point") or not value.is_floating_point():
            raise UnsupportedArtifact(f"entry {name[:80]!r} of the checkpoint is not a float tensor")
        weights[name] = value.detach().float().contiguous().numpy().astype(np.float32)
    return weights


def _main() -> int:
    try:
        _child(Path(sys.argv[1]), Path(sys.argv[2]))
    except Refusal as exc:
        print(exc.message, file=sys.stderr)  # noqa: T201
        return REFUSED_EXIT
    # Whatever torch raises on foreign bytes; the process ends here and the parent learns only this line.
    except Exception as exc:
        print(f"not a torch checkpoint of plain weights ({type(exc).__name__})", file=sys.stderr)  # noqa: T201
        return REFUSED_EXIT
    return 0


if __name__ == "__main__":
    sys.exit(_main())
