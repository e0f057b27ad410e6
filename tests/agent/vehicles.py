"""Vehicles as their owner sees them: a state directory, the commands, a process that answers."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zlib import crc32

from client_agent.agent import Agent, Clock, open_slots, utc_now
from client_agent.cli import main as agent_main
from client_agent.config import Config
from client_agent.journal import Progress
from client_agent.machine import Observer, unobserved
from client_agent.slots import Record, Slots
from client_agent.stop import StopSignal
from model_registry.contract.content import Content
from tests.agent.models import FAMILY, HARDWARE, picture
from tests.agent.registry import TOKEN, FakeRegistry

LIFE_S = 60.0


@dataclass
class Vehicle:
    """One vehicle of the fleet."""

    state: Path
    registry: FakeRegistry | None
    vehicle_id: str = "car-1"

    def command(self, name: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run one of the agent's commands to its end."""
        command = [sys.executable, "-m", "client_agent.cli", name, "--state", str(self.state), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=LIFE_S, check=False, **options)

    def enrol(self) -> Vehicle:
        assert self.registry is not None
        roots = self.registry.write_roots(self.state.with_name("roots"))
        arguments = ["--server", self.registry.url, "--token", TOKEN, "--vehicle-id", self.vehicle_id, "--family", FAMILY]
        assert (
            agent_main(["enroll", "--state", str(self.state), *arguments, "--hardware-id", HARDWARE, "--roots", str(roots)])
            == 0
        )
        # Nobody asks these vehicles anything while they are on probation, unless a test does.
        return self.configure(probation_s=0.0)

    def install(self, content: Content, counter: int) -> Vehicle:
        """Put a proven model in, as an earlier update left it."""
        manifest = content.manifest
        slot = self.slots.store(Record(content.sha256, manifest.family, manifest.version, counter), content.data)
        self.slots.activate(slot)
        self.slots.mark_good(slot)
        return self

    def log(self) -> str:
        """What the last agent processes wrote."""
        path = self.state.parent / f"{self.vehicle_id}.log"
        return path.read_text() if path.exists() else ""

    @property
    def config(self) -> Config:
        return Config.load(self.state)

    @property
    def slots(self) -> Slots:
        return open_slots(self.state)

    @property
    def running(self) -> Record | None:
        return self.slots.index.running

    def boot(self, *, observe: Observer = unobserved, clock: Clock = utc_now, stop: StopSignal | None = None) -> Agent:
        """An agent in this process, awake."""
        agent = Agent(self.state, self.config, stop or StopSignal(), observe=observe, clock=clock)
        agent.wake()
        return agent

    def check(self, *, observe: Observer = unobserved, clock: Clock = utc_now) -> Progress:
        """One pass of a freshly started agent."""
        return self.boot(observe=observe, clock=clock).check()

    def configure(self, **changes: Any) -> Vehicle:
        """Edit the settings."""
        replace(self.config, **changes).save(self.state)
        return self

    @contextmanager
    def daemon(
        self, *, program: tuple[str, ...] = ("-m", "client_agent.cli", "run"), env: dict[str, str] | None = None
    ) -> Iterator[Daemon]:
        """A running agent process, ended by its own pid."""
        # A socket's path has 107 bytes, and a test's folder takes most of them.
        socket_path = self.state.parent / f"{crc32(self.vehicle_id.encode()):x}"
        command = [sys.executable, *program, "--state", str(self.state), "--listen", f"unix:{socket_path}"]
        log = (self.state.parent / f"{self.vehicle_id}.log").open("ab")
        with log, subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **(env or {})}) as process:
            try:
                yield Daemon(process, socket_path)
            finally:
                if process.poll() is None:
                    process.kill()


@dataclass
class Daemon:
    """A running agent, asked through its socket."""

    process: subprocess.Popen[bytes]
    socket_path: Path

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, dict[str, Any]]:
        connection = UnixConnection(self.socket_path)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def try_ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, dict[str, Any]] | None:
        """None while nobody answers."""
        try:
            return self.ask(method, path, body)
        except (OSError, http.client.HTTPException):
            return None

    def version(self) -> str | None:
        """The version that answers a question now; None while nobody does."""
        answer = self.try_ask("POST", f"/v2/models/{FAMILY}/classify", picture())
        return str(answer[1]["model_version"]) if answer and answer[0] == 200 else None

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def eventually(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Poll until a condition holds."""
    ends_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends_at, f"after {seconds:g} s still not: {what}"
        time.sleep(0.02)
