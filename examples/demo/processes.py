"""The real programs that the demonstration runs: started, waited for, and ended by their own process id."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent
GRACE_S = 10.0


class StepFailed(Exception):
    """A program of the demonstration did not do its part; the message says where its log is."""


@dataclass
class Processes:
    """Background programs with one log file each under ``logs``."""

    logs: Path
    environment: dict[str, str]
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start a program that runs until ``stop_all``."""
        with (self.logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                _with_path(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | self.environment
            )
        self._running[name] = process
        return process

    def call(self, name: str, command: Sequence[str], *, timeout_s: float = 120) -> str:
        """Run a program to its end and return its standard output. Raises StepFailed."""
        done = subprocess.run(
            _with_path(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=os.environ | self.environment,
            check=False,
        )
        (self.logs / f"{name}.log").write_text(done.stdout + done.stderr)
        if done.returncode:
            raise StepFailed(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def call_json(self, name: str, command: Sequence[str], *, timeout_s: float = 120) -> dict[str, Any]:
        """The same for a program that prints one JSON object."""
        value: dict[str, Any] = json.loads(self.call(name, [*command, "--json"], timeout_s=timeout_s))
        return value

    def ended(self) -> list[str]:
        """Names of programs that are no longer running and should be."""
        return [name for name, process in self._running.items() if process.poll() is not None]

    def wait(self) -> None:
        """Block until every program has ended or Ctrl-C."""
        for process in self._running.values():
            process.wait()

    def stop_all(self) -> None:
        """Ask every program to end, youngest first; end those that do not listen."""
        for process in reversed(self._running.values()):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + GRACE_S
        for process in reversed(self._running.values()):
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()


def wait_until(condition: Callable[[], bool], *, what: str, timeout_s: float, every_s: float = 0.1) -> None:
    """Poll until ``condition`` holds. Raises StepFailed when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise StepFailed(f"{what} took longer than {timeout_s:.0f} s")
        time.sleep(every_s)


def _with_path(command: Sequence[str]) -> list[str]:
    return [str(BIN / command[0]), *command[1:]]
