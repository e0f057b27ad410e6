"""Programs that a test starts beside itself: on loopback, ended by their own process ids, with a bound on their life."""

from __future__ import annotations

import os
import pwd
import random
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

LOOPBACK = "127.0.0.1"
# Below the range from which the system takes the ports of outgoing connections.
_PORTS = range(20_000, 32_000)


class DidNotStart(Exception):
    """A program ended, or did not answer in time; the message carries the end of its log."""


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    for port in random.sample(_PORTS, 100):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((LOOPBACK, port))
            return port
    raise DidNotStart("no free port among a hundred tried")


def as_user(user: str | None) -> dict[str, Any]:
    """What ``subprocess`` takes to run a program as another user; nothing for None."""
    return {} if user is None else {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def wait_until(condition: Callable[[], bool], *, deadline_s: float, what: str, poll_s: float = 0.05) -> None:
    """Poll until the condition holds; ``poll_s`` is longer where asking costs something. Raises TimeoutError."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not after {deadline_s:g} s")
        time.sleep(poll_s)


def answers(url: str) -> bool:
    """Whether an HTTP server gives any answer below 500 there."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status < 500)
    except urllib.error.HTTPError as exc:
        return exc.code < 500
    except OSError:
        return False


class Daemon:
    """One running program, in a process group of its own under ``timeout``, which ends it even if its starter is killed."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log: Path,
        life_s: float,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        cwd: Path | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.name = name
        self.log = log
        self._stop_signal = stop_signal
        bounded = ["timeout", f"--signal={stop_signal.name[3:]}", "--kill-after=10", str(life_s), *map(str, command)]
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                bounded,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if env is None else dict(env),
                cwd=cwd,
                start_new_session=True,
                **as_user(user),
            )

    @property
    def pid(self) -> int:
        """Of ``timeout``; the program itself is its only child."""
        return self._process.pid

    @property
    def program_pid(self) -> int:
        """Of the program itself."""
        return int(Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()[0])

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def wait_until_ready(self, ready: Callable[[], bool], *, deadline_s: float = 30) -> None:
        """Raises DidNotStart with the log's end."""
        try:
            wait_until(lambda: not self.running or ready(), deadline_s=deadline_s, what=self.name)
        except TimeoutError as exc:
            raise DidNotStart(f"{exc}\n{self.tail()}") from exc
        if not self.running:
            raise DidNotStart(f"{self.name} ended with {self._process.returncode}\n{self.tail()}")

    def tail(self, lines: int = 30) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self, *, deadline_s: float = 15) -> int:
        """Ask it to end, insist after the deadline; its exit status."""
        if self.running:
            self._process.send_signal(self._stop_signal)
            try:
                self._process.wait(deadline_s)
            except subprocess.TimeoutExpired:
                self.kill()
        return self._process.wait(deadline_s)

    def kill(self) -> None:
        """kill -9, with every process it started; nothing in it gets to clean up."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait(10)

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
