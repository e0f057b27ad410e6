"""The child process of a job: ``python -I -m server.jobs.child`` with a task as JSON on standard input.

It bounds itself before it reads anything else, dies with its worker, and talks in lines of JSON: progress, then one result or
one refusal. Torch is imported here and nowhere else in the server.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from model_registry.contract.errors import Refusal

PR_SET_PDEATHSIG = 1
MIN_REPORT_INTERVAL_S = 0.2


class Reporter:
    """Sends lines to the worker; progress at a bounded rate."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._last = (0.0, "")

    def progress(self, share: float, step: str) -> None:
        now = time.monotonic()
        if step != self._last[1] or now - self._last[0] >= MIN_REPORT_INTERVAL_S:
            self._last = (now, step)
            self.send({"progress": share, "step": step})

    def send(self, line: dict[str, Any]) -> None:
        self._out.write(json.dumps(line) + "\n")
        self._out.flush()


def main() -> int:
    """Run the task of standard input; exit status 0 when a result or a refusal was told."""
    # What libraries print must not get between the lines: keep the real standard output, give them standard error.
    reporter = Reporter(os.fdopen(os.dup(1), "w"))
    os.dup2(2, 1)
    task = json.loads(sys.stdin.readline())
    bound_process(task["memory_bytes"], task["cpu_s"])
    if os.getppid() != task["worker_pid"]:
        return 1  # the worker died before it could be watched
    try:
        reporter.send({"result": _run(task, reporter)})
    except Refusal as exc:
        reporter.send({"refusal": {"code": exc.code, "message": exc.message, "remedy": exc.remedy}})
    except MemoryError:
        remedy = "raise DELTAFLEET_JOB_MEMORY_BYTES, or publish a smaller model"
        message = f"the job needs more than {task['memory_bytes']} bytes of memory"
        reporter.send({"refusal": {"code": "job_failed", "message": message, "remedy": remedy}})
    return 0


def bound_process(memory_bytes: int, cpu_s: int) -> None:
    """Address space, CPU time and file sizes; no core files; an end when the worker ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 5))


def _run(task: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    folder = Path(task["folder"])
    match task["kind"]:
        case "compress":
            from server.jobs.compressing import compress  # noqa: PLC0415 - torch only where it is needed

            return compress(folder, task, reporter.progress)
        case "delta":
            from server.jobs.differing import make  # noqa: PLC0415

            return make(folder, reporter.progress)
        case kind:
            raise RuntimeError(f"no such kind of job: {kind}")


if __name__ == "__main__":
    sys.exit(main())
