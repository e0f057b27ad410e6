"""A child process seen from its worker: started clean, listened to, bounded in time, and never outliving the job."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_registry.contract.errors import Refusal
from server.errors import JobFailed

POLL_S = 0.5
PARTING_S = 5.0
MAX_LINE_BYTES = 1024 * 1024
STDERR_FILE = "stderr.log"
STDERR_TAIL_BYTES = 2000
# What a child may know of its surroundings: no addresses, no credentials.
INHERITED = ("PATH", "LANG", "LC_ALL", "HOME", "LD_LIBRARY_PATH")


@dataclass(frozen=True)
class Verdict:
    """Why there is no result, in the words that operators see; ``code`` is a Refusal's."""

    code: str
    text: str

    @classmethod
    def of(cls, refusal: Refusal) -> Verdict:
        return cls(refusal.code, str(refusal))


class ChildRefused(Exception):
    """The child says clearly why there is no result. Trying again would give the same answer."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.text)
        self.verdict = verdict


class ChildStopped(Exception):
    """The worker no longer wants the result."""


def run_child(
    task: dict[str, Any],
    folder: Path,
    *,
    memory_bytes: int,
    deadline_s: float,
    threads: int,
    beat: Callable[[float, str], bool],
) -> dict[str, Any]:
    """Run a task in a fresh interpreter and return its result.

    ``beat(progress, step)`` is called at least about every ``POLL_S`` seconds; when it says False the child is killed.
    Raises ChildRefused, ChildStopped, JobFailed (the child died, or its time was over).
    """
    limits = {"memory_bytes": memory_bytes, "cpu_s": int(deadline_s * max(threads, 1)) + 1, "worker_pid": os.getpid()}
    with (folder / STDERR_FILE).open("wb") as errors:
        child = subprocess.Popen(
            [sys.executable, "-I", "-m", "server.jobs.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=folder,
            env=_environment(folder, threads),
            start_new_session=True,
        )
    try:
        _give(child, {**task, **limits, "folder": str(folder)})
        outcome = _listen(child, time.monotonic() + deadline_s, deadline_s, beat)
        with suppress(subprocess.TimeoutExpired):
            child.wait(timeout=PARTING_S)
    finally:
        _end(child)
    return _result(outcome, child.returncode, folder)


def _environment(folder: Path, threads: int) -> dict[str, str]:
    kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
    return {**kept, "TMPDIR": str(folder), "OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}


def _give(child: subprocess.Popen[bytes], task: dict[str, Any]) -> None:
    if child.stdin is None:
        raise RuntimeError("the child was started without standard input")
    # A child that died at once shows in its exit status.
    with suppress(BrokenPipeError):
        child.stdin.write(json.dumps(task).encode() + b"\n")
        child.stdin.close()


def _listen(
    child: subprocess.Popen[bytes], end: float, deadline_s: float, beat: Callable[[float, str], bool]
) -> dict[str, Any] | None:
    """The last line that is a result or a refusal; None when there was none."""
    progress, step = 0.0, "start"
    for line in _lines(child, end, deadline_s):
        if line is not None and ("result" in line or "refusal" in line):
            return line
        if line is not None:
            progress, step = float(line.get("progress", progress)), str(line.get("step", step))
        if not beat(progress, step):
            raise ChildStopped
    return None


def _lines(child: subprocess.Popen[bytes], end: float, deadline_s: float) -> Iterator[dict[str, Any] | None]:
    """Each line of the child, and None when there is none for a while; ends when the child closes its output."""
    if child.stdout is None:
        raise RuntimeError("the child was started without standard output")
    buffer = b""
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while True:
            ready = selector.select(min(POLL_S, max(end - time.monotonic(), 0)))
            # What a late child has said by now is late as well, however long this thread had to wait for its turn.
            if time.monotonic() > end:
                raise JobFailed(f"the job took longer than {deadline_s:g} s", remedy="raise DELTAFLEET_JOB_DEADLINE_S")
            if not ready:
                yield None
                continue
            chunk = os.read(child.stdout.fileno(), 65536)
            if not chunk:
                return
            *complete, buffer = (buffer + chunk).split(b"\n")
            if len(buffer) > MAX_LINE_BYTES:
                raise JobFailed("the job's process talks without end")
            for line in complete:
                yield _parsed(line)


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _end(child: subprocess.Popen[bytes]) -> None:
    """Whatever happened, nothing of the child's process group is left."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    if child.stdout:
        child.stdout.close()


def _result(outcome: dict[str, Any] | None, status: int, folder: Path) -> dict[str, Any]:
    if outcome is None:
        how = f"by signal {-status}" if status < 0 else f"with status {status}"
        said = _last_words(folder)
        raise JobFailed(f"the job's process ended {how}{said}", remedy="it may have run out of memory; see the worker's log")
    if "refusal" in outcome:
        refusal = outcome["refusal"]
        message, remedy = str(refusal["message"]), str(refusal["remedy"])
        raise ChildRefused(Verdict(str(refusal["code"])[:64], f"{message}; {remedy}" if remedy else message))
    result = outcome["result"]
    if not isinstance(result, dict):
        raise JobFailed("the job's process told a result that is none")
    return result


def _last_words(folder: Path) -> str:
    data = (folder / STDERR_FILE).read_bytes()[-STDERR_TAIL_BYTES:].decode(errors="replace").strip()
    return f": {data.splitlines()[-1][:300]}" if data else ""
