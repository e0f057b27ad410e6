"""Decode artifacts in a child process with limits: what a hostile file can break is not the process that answers.

    python -P -m client_agent.rebuild BASE|- OUT (ARTIFACT CONTENT_SHA256 CONTENT_BYTES)...

Each artifact makes a content of the one before it; only the last is written, and two at most are in memory. The bounds come
from signed metadata, the artifacts' digests were checked before. The child refuses by one line of JSON on standard output,
{"code", "message"}, and exit status 1; whatever else befalls it is a refusal as well.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from client_agent.stop import StopSignal
from model_registry.contract.content import Content
from model_registry.contract.decoder_environment import DECODER_ENVIRONMENT
from model_registry.contract.delta import apply_delta
from model_registry.contract.errors import (
    ArtifactRefused,
    ContentMismatch,
    LimitExceeded,
    MalformedArtifact,
    ManifestRefused,
    Refusal,
    UnsupportedArtifact,
    WrongBase,
)
from model_registry.contract.full import decode_full
from model_registry.contract.limits import DEFAULT_LIMITS

REFUSALS: tuple[type[Refusal], ...] = (
    MalformedArtifact,
    UnsupportedArtifact,
    LimitExceeded,
    ContentMismatch,
    WrongBase,
    ManifestRefused,
)
MAX_ANSWER_BYTES = 4096
POLL_S = 0.02
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def allowance_bytes(content_bytes: int) -> int:
    """Address space that decoding may take above what the interpreter has: tables, symbols and copies of the content."""
    return 192 * 1024 * 1024 + 12 * content_bytes


@dataclass(frozen=True, slots=True)
class Coded:
    """One artifact to decode, and what signed metadata says comes out."""

    artifact: Path
    content_sha256: str
    content_bytes: int


@dataclass(frozen=True, slots=True)
class Job:
    """Artifacts to decode one after the other. ``base`` is None when the only one is a full artifact."""

    base: Path | None
    artifacts: tuple[Coded, ...]
    out: Path

    @property
    def largest_bytes(self) -> int:
        """Of the contents that are held on the way, the base's included."""
        base = self.base.stat().st_size if self.base else 0
        return max(base, *(coded.content_bytes for coded in self.artifacts))

    def arguments(self) -> list[str]:
        coded = [[str(c.artifact), c.content_sha256, str(c.content_bytes)] for c in self.artifacts]
        return [str(self.base or "-"), str(self.out), *chain.from_iterable(coded)]

    @classmethod
    def of_arguments(cls, arguments: list[str]) -> Job:
        base, out, *coded = arguments
        artifacts = (Coded(Path(path), sha256, int(size)) for path, sha256, size in zip(*[iter(coded)] * 3, strict=True))
        return cls(None if base == "-" else Path(base), tuple(artifacts), Path(out))


def rebuild(job: Job, *, deadline_s: float, stop: StopSignal) -> None:
    """Decode into ``job.out``, in a child. Raises ArtifactRefused or ManifestRefused, Stopped; then ``job.out`` is gone."""
    command = [sys.executable, "-P", "-m", "client_agent.rebuild", *job.arguments()]
    environment = {**os.environ, **DECODER_ENVIRONMENT}
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as child:
        try:
            status = _wait(child, deadline_s, stop)
            answer = child.stdout.read(MAX_ANSWER_BYTES) if child.stdout else b""
        except BaseException:
            child.kill()
            job.out.unlink(missing_ok=True)
            raise
    if status != 0:
        job.out.unlink(missing_ok=True)
        raise _refusal(status, answer)


def _wait(child: subprocess.Popen[bytes], deadline_s: float, stop: StopSignal) -> int:
    ends_at = time.monotonic() + deadline_s
    while (status := child.poll()) is None:
        if time.monotonic() > ends_at:
            raise LimitExceeded(f"decoding the artifact takes more than {deadline_s:g} seconds")
        stop.wait(POLL_S)
        stop.check()
    return status


def _refusal(status: int, answer: bytes) -> Refusal:
    try:
        value = json.loads(answer)
        kind = next(kind for kind in REFUSALS if kind.code == value["code"])
        return kind(str(value["message"]))
    except (ValueError, KeyError, TypeError, StopIteration):
        return ArtifactRefused(f"decoding the artifact ended with status {status}", remedy="build the artifact again")


def main(arguments: list[str]) -> int:
    """The child: exit status 0 when OUT holds the content, 1 for a refusal."""
    job = Job.of_arguments(arguments)
    _die_with_the_agent()
    _limit(job)
    try:
        content = decode(job)
        job.out.write_bytes(content.data)
    except Refusal as exc:
        return _say(exc.code, exc.message)
    except MemoryError:
        return _say(LimitExceeded.code, "decoding the artifact takes more memory than is allowed")
    return 0


def decode(job: Job) -> Content:
    """Decode within the signed bounds. Raises ArtifactRefused or ManifestRefused."""
    content = None if job.base is None else Content.from_data(job.base.read_bytes())
    for coded in job.artifacts:
        content = _decoded(content, coded)
    if content is None:
        raise AssertionError("a job has at least one artifact")
    return content


def _decoded(base: Content | None, coded: Coded) -> Content:
    """One artifact's content, which is the signed one: what is built on it may rely on that."""
    data = coded.artifact.read_bytes()
    limits = replace(DEFAULT_LIMITS, max_artifact_bytes=len(data), max_content_bytes=coded.content_bytes)
    content = decode_full(data, limits) if base is None else apply_delta(base, data, limits)
    if content.sha256 != coded.content_sha256 or len(content.data) != coded.content_bytes:
        raise ContentMismatch("the artifact decodes to another content than the one that was signed")
    return content


def _die_with_the_agent() -> None:
    """An orphan would write into the staging directory of the agent's next start."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _limit(job: Job) -> None:
    with Path("/proc/self/statm").open() as statm:
        now = int(statm.read().split()[0]) * resource.getpagesize()
    space = now + allowance_bytes(job.largest_bytes)
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    written = job.artifacts[-1].content_bytes
    size = written if soft == resource.RLIM_INFINITY else min(written, soft)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))


def _say(code: str, message: str) -> int:
    sys.stdout.write(json.dumps({"code": code, "message": message[:1000]}))
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
