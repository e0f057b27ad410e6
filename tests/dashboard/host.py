"""A registry in a process of its own, on an inherited socket: ``python -m tests.dashboard.host DATA FD``."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.request import urlopen

import uvicorn

from server.app import create_app
from server.bootstrap import prepare
from server.database import Database
from server.settings import Settings

LIFE_S = 600
START_S, STOP_S = 60.0, 30.0


def settings_of(data: Path) -> Settings:
    """Everything under one folder, and no worker: the dashboard is what is looked at."""
    return Settings(data=data, embedded_worker=False)


@dataclass(slots=True)
class Served:
    """A running registry: where it answers, its database, and its process."""

    url: str
    database: Database
    process: subprocess.Popen[bytes]

    def stop(self) -> int:
        """Ask it to end as a service manager would; raises TimeoutExpired when it hangs."""
        self.process.terminate()
        return self.process.wait(STOP_S)


def prepared(data: Path) -> Database:
    """The database of a fresh registry in ``data``."""
    settings = settings_of(data)
    prepare(settings)
    return Database(settings.sqlalchemy_url, lock_file=settings.signing_lock_file)


@contextmanager
def serving(data: Path, *, port: int = 0) -> Iterator[Served]:
    """Serve ``data`` until the block ends; the log goes to ``data/server.log``."""
    database = prepared(data)
    with socket.create_server(("127.0.0.1", port)) as listener, (data / "server.log").open("ab") as log:
        served = Served(f"http://127.0.0.1:{listener.getsockname()[1]}", database, _start(data, listener, log))
        listener.close()
        try:
            _wait_until_ready(served)
            yield served
        finally:
            served.process.kill()
            served.process.wait()
            database.close()


def _start(data: Path, listener: socket.socket, log: IO[bytes]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.dashboard.host", str(data), str(listener.fileno())]
    root = Path(__file__).parents[2]
    return subprocess.Popen(command, cwd=root, pass_fds=[listener.fileno()], stdout=log, stderr=log)


def _wait_until_ready(served: Served) -> None:
    # The socket listens before the process does: the first answer comes when it is ready.
    with urlopen(f"{served.url}/healthz", timeout=START_S) as answer:
        answer.read()


def main() -> None:
    """Serve until asked to stop, and never longer than ``LIFE_S``."""
    signal.alarm(LIFE_S)
    data, descriptor = Path(sys.argv[1]), int(sys.argv[2])
    uvicorn.run(create_app(settings_of(data)), fd=descriptor, log_level="warning", lifespan="on")


if __name__ == "__main__":
    main()
