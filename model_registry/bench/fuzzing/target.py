"""One input against a decoder, held to what a vehicle relies on.

Allowed: a content with the digest that the artifact names, or ArtifactRefused or ManifestRefused. Everything else is a finding:
another exception (a panic of native code among them), more CPU time than CPU_S, more memory than ``memory_bound``. What kills
the process is found by the parent, to whom the flight recorder leaves the input: a crash, or the profiling timer after HANG_S.
"""

from __future__ import annotations

import mmap
import resource
import signal
import struct
import time
import tracemalloc
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from model_registry.bench.fuzzing.mutations import Bases
from model_registry.bench.fuzzing.seeds import known_contents
from model_registry.contract.codecs.numbers import BLOCK
from model_registry.contract.delta import read_delta_header
from model_registry.contract.errors import ArtifactRefused, ManifestRefused, Refusal
from model_registry.contract.full import read_full_header
from model_registry.contract.limits import DEFAULT_LIMITS, MIB

CPU_S = 2.0
HANG_S = 20.0
# Tables, bombs cut short, the base; then working arrays for a block of values, which no tensor exceeds; then the content.
FIXED_BYTES, BYTES_PER_VALUE, TIMES_CONTENT = 16 * MIB, 64, 3
# An agent allows its child 192 MiB and more (client_agent/rebuild.py).
ADDRESS_SPACE_ABOVE_START = 160 * MIB
# Tracing allocations costs three times the decoding itself: every so many inputs are traced, all meet the address-space limit.
TRACED_EVERY = 8
MAX_INPUT_BYTES = MIB
LIMITS = replace(DEFAULT_LIMITS, max_artifact_bytes=MAX_INPUT_BYTES, max_content_bytes=2 * MIB)


class Finding(Exception):
    """An input that a decoder does not refuse as it should; ``kind`` is a word for reports."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind


def memory_bound(artifact: bytes) -> int:
    """What decoding may allocate at most, by the content size that the header declares and the limits allow."""
    read = read_delta_header if artifact[:3] == b"DFD" else read_full_header
    try:
        declared = read(artifact).content_bytes
    except Refusal:
        declared = 0
    content = declared if declared <= LIMITS.max_content_bytes else 0
    return FIXED_BYTES + BYTES_PER_VALUE * min(content, BLOCK) + TIMES_CONTENT * content + 2 * len(artifact)


class Recorder:
    """The input that is being decoded, in a file that outlives the process."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(4 + MAX_INPUT_BYTES))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)

    def note(self, artifact: bytes) -> None:
        self._map[: 4 + len(artifact)] = struct.pack("<I", len(artifact)) + artifact

    @staticmethod
    def last(path: Path) -> bytes:
        data = path.read_bytes()
        return data[4 : 4 + struct.unpack("<I", data[:4])[0]]


@dataclass(slots=True)
class Target:
    """A decoder under test, and what it answered so far."""

    recorder: Recorder | None = None
    bases: Bases = field(default_factory=lambda: Bases(known_contents(), LIMITS))
    answers: Counter[str] = field(default_factory=Counter)
    peak_bytes: int = 0
    slowest_s: float = 0.0
    traced_every: int = TRACED_EVERY

    @property
    def executions(self) -> int:
        return self.answers.total()

    def run(self, artifact: bytes) -> str:
        """What the decoder answered, by name. Raises Finding."""
        artifact = artifact[:MAX_INPUT_BYTES]
        if self.recorder:
            self.recorder.note(artifact)
        traced = self.executions % self.traced_every == 0
        if traced:
            tracemalloc.start()
        start_s = time.process_time()
        try:
            answer = self._answer(artifact)
            spent_s = time.process_time() - start_s
            peak = tracemalloc.get_traced_memory()[1] if traced else 0
        finally:
            tracemalloc.stop()
        self.answers[answer] += 1
        self.peak_bytes, self.slowest_s = max(self.peak_bytes, peak), max(self.slowest_s, spent_s)
        if spent_s > CPU_S:
            raise Finding("slow", f"{spent_s:.1f} s of CPU time for {len(artifact)} bytes")
        if peak > memory_bound(artifact):
            raise Finding("memory", f"{peak} bytes allocated, {memory_bound(artifact)} are the bound")
        return answer

    def _answer(self, artifact: bytes) -> str:
        signal.setitimer(signal.ITIMER_PROF, HANG_S)
        try:
            content = self.bases.decode(artifact)
        except (ArtifactRefused, ManifestRefused) as exc:
            return type(exc).__name__
        # A panic of native code derives from BaseException; so does nothing else that a decoder could raise.
        except BaseException as exc:
            raise Finding("exception", f"{type(exc).__name__}: {exc}") from exc
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        end = 69 if artifact[:3] == b"DFD" else 36
        if content.sha256 != artifact[end - 32 : end].hex():
            raise Finding("digest", "the content is not the one that the artifact names")
        return "decoded"


def limit_address_space() -> None:
    """From here on this process gets little more address space than it has: what asks for much meets MemoryError, or dies."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    bound = pages * resource.getpagesize() + ADDRESS_SPACE_ABOVE_START
    resource.setrlimit(resource.RLIMIT_AS, (bound, resource.getrlimit(resource.RLIMIT_AS)[1]))
