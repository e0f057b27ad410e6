"""What one encoding or decoding costs: CPU time and peak memory of a fresh process that does nothing else.

    python -m model_registry.bench.measuring CODER encode|decode BASE|- INPUT OUTPUT

The process says {"cpu_s", "peak_bytes"} in one line of JSON. Counted is everything from opening the inputs to having the
result in memory, processes that a tool starts included; not counted are the interpreter and the loading of libraries.
``peak_bytes`` is what the process held at most beyond them, less the result. One thread.
"""

from __future__ import annotations

import hashlib
import json
import resource
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from model_registry.bench.coders import Coder
from model_registry.bench.ours import DELTAS, FULL
from model_registry.bench.peers import PEERS
from model_registry.bench.processes import ProcessFailed, run_alone
from model_registry.contract.errors import Refusal

CODERS = {coder.name: coder for coder in (FULL, *DELTAS, *PEERS)}
DEADLINE_S = 900
STATUS = Path("/proc/self/status")


@dataclass(frozen=True, slots=True)
class Cost:
    """``peak_bytes`` beyond interpreter, libraries and result; 0 where the system does not tell."""

    cpu_s: float
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Coding:
    """One coder on one pair: what travels, what that costs, and whether a fresh process made the same bytes of it again."""

    coder: str
    bytes: int
    encode: Cost
    decode: Cost
    decodes: bool


class CodingFailed(Refusal):
    """A coder could not do its work."""


def measure(coder: Coder, base: Path | None, new: Path, folder: Path, *, decodings: int = 1) -> Coding:
    """Encode and decode ``new`` in fresh processes; of ``decodings`` the quickest counts, and the most memory.

    Raises CodingFailed.
    """
    artifact, back = folder / "artifact", folder / "back"
    encode = _run(coder, "encode", base, new, artifact)
    costs = [_run(coder, "decode", base, artifact, back) for _ in range(decodings)]
    decode = Cost(min(cost.cpu_s for cost in costs), max(cost.peak_bytes for cost in costs))
    return Coding(coder.name, artifact.stat().st_size, encode, decode, _digest(back) == _digest(new))


def _run(coder: Coder, way: Literal["encode", "decode"], base: Path | None, source: Path, target: Path) -> Cost:
    command = [
        sys.executable,
        "-m",
        "model_registry.bench.measuring",
        coder.name,
        way,
        str(base or "-"),
        str(source),
        str(target),
    ]
    target.unlink(missing_ok=True)
    try:
        value = run_alone(command, deadline_s=DEADLINE_S)
    except ProcessFailed as exc:
        raise CodingFailed(f"{coder.name}: {way} failed: {exc}") from exc
    return Cost(float(value["cpu_s"]), int(value["peak_bytes"]))


def _digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def main(arguments: list[str]) -> None:
    """The child."""
    name, way, base, source, target = arguments
    coder = CODERS[name]
    coder.version()
    work = coder.encode if way == "encode" else coder.decode
    held = _resident_bytes()
    _forget_peak()
    before = _cpu_s()
    result = work(b"" if base == "-" else Path(base).read_bytes(), Path(source).read_bytes())
    cpu_s = _cpu_s() - before
    peak_bytes = max(_peak_bytes(held) - len(result), 0)
    Path(target).write_bytes(result)
    sys.stdout.write(json.dumps({"cpu_s": round(cpu_s, 4), "peak_bytes": peak_bytes}))


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def _peak_bytes(held: int) -> int:
    """Of this process beyond what it ``held`` before, or of the largest that it started; that one's program included."""
    # The rusage of this process would count what its parent held when it forked; the status counts its own.
    return max(_status_bytes("VmHWM") - held, 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)


def _resident_bytes() -> int:
    return _status_bytes("VmRSS")


def _status_bytes(field: str) -> int:
    """From the kernel's report; 0 on systems that have none."""
    with suppress(OSError):
        for line in STATUS.read_text().splitlines():
            if line.startswith(f"{field}:"):
                return 1024 * int(line.split()[1])
    return 0


def _forget_peak() -> None:
    """Loading libraries may have held more than the work will."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    main(sys.argv[1:])
