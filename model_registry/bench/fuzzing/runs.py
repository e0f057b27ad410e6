"""The parent of the fuzzing processes: one child for each engine and decoder, so that a crash is seen, kept and told."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from model_registry.bench.fuzzing.engines import Decoder, Engine
from model_registry.contract.errors import Refusal

# The course of one child, seeds included: slow machines need minutes for 100,000 inputs.
DEADLINE_S_PER_INPUT, DEADLINE_S_AT_LEAST = 0.1, 300
MAX_INPUT_BYTES = 1 << 21


class EngineMissing(Refusal):
    """A fuzzing engine is not installed."""

    code = "engine_missing"


@dataclass(frozen=True, slots=True)
class Run:
    """What one child did: its own report, and the input that ended it, if one did."""

    engine: Engine
    decoder: Decoder
    seconds: float
    report: dict[str, Any]
    finding: str
    reproducer: Path | None

    def summary(self) -> dict[str, Any]:
        """One JSON object."""
        rate = round(self.report.get("executions", 0) / self.seconds) if self.seconds else 0
        values = {"engine": self.engine, "decoder": self.decoder, "seconds": round(self.seconds, 1), "executions_per_s": rate}
        kept = str(self.reproducer) if self.reproducer else None
        return values | self.report | {"finding": self.finding or None, "reproducer": kept}


def fuzz(engine: Engine, decoder: Decoder, *, inputs: int, seed: int, keep: Path) -> Run:
    """Run one engine against one decoder; what it finds is copied to ``keep``. Raises EngineMissing."""
    if importlib.util.find_spec(engine) is None:
        raise EngineMissing(f"{engine} is not installed", remedy="pip install 'deltafleet[fuzz]'")
    with tempfile.TemporaryDirectory(prefix="deltafleet-fuzz-") as temporary:
        folder, start_s = Path(temporary), time.monotonic()
        status = _child([engine, decoder, str(inputs), str(seed), temporary], folder, _deadline_s(inputs))
        seconds = time.monotonic() - start_s
        path = folder / "report.json"
        report = json.loads(path.read_text()) if path.exists() else {}
        if status == 0 and report.get("executions", 0) >= inputs - 1:
            return Run(engine, decoder, seconds, report, "", None)
        return Run(engine, decoder, seconds, report, _finding(folder, status), _kept(folder, f"{decoder}-", keep))


def _deadline_s(inputs: int) -> float:
    return max(DEADLINE_S_AT_LEAST, inputs * DEADLINE_S_PER_INPUT)


def _child(arguments: Iterable[str], folder: Path, deadline_s: float) -> int:
    """The child's exit status, negative for a signal; its words stay in the folder."""
    # One thread: the stacks of others would eat the address space.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "model_registry.bench.fuzzing.engines", *arguments]
    with (folder / "log").open("wb") as log:
        try:
            return subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, timeout=deadline_s, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            return -signal.SIGALRM


def _finding(folder: Path, status: int) -> str:
    told = folder / "finding.txt"
    if told.exists():
        return told.read_text()
    if status == -signal.SIGPROF:
        return "hang: the decoder did not come back in time"
    if status < 0:
        return f"crash: the process ended by {signal.Signals(-status).name}"
    last = (folder / "log").read_text(errors="replace").strip()[-500:]
    return f"the engine stopped with exit status {status}: {last}"


def _kept(folder: Path, prefix: str, keep: Path) -> Path | None:
    """The input in a file of its own."""
    from model_registry.bench.fuzzing.target import Recorder  # noqa: PLC0415

    found, now = folder / "finding.bin", folder / "input.now"
    if not found.exists():
        if not now.exists():
            return None
        found.write_bytes(Recorder.last(now))
    keep.mkdir(parents=True, exist_ok=True)
    path = keep / f"{prefix}{sha256(found.read_bytes()).hexdigest()[:12]}.bin"
    shutil.copyfile(found, path)
    return path


def reproduce(path: Path) -> str:
    """Decode one kept input as the engines do and say what came of it. Raises Finding."""
    from model_registry.bench.fuzzing.target import Target, limit_address_space  # noqa: PLC0415

    target = Target(traced_every=1)
    limit_address_space()
    with path.open("rb") as file:
        return target.run(file.read(MAX_INPUT_BYTES))
