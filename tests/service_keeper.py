"""Starts PostgreSQL or an S3 server for the tests, keeps it while anyone uses it, ends it and removes its files.

Run as ``python -m tests.service_keeper KIND FOLDER``. Whoever uses the service holds a shared lock on FOLDER/lease; the kernel
drops it even when the user is killed, so that no service outlives the tests. Several test processes share one service.
"""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import IO

from tests.daemons import LOOPBACK, Daemon, DidNotStart, answers, as_user, free_port, wait_until
from tests.reference import ROOT

START_ATTEMPTS = 3
LIFE_S = 3600
_ACCESS_KEY, _SECRET_KEY = "deltafleet-tests", "not-a-secret-outside-this-machine"
_CEPH = {
    "auth cluster required": "none",
    "auth service required": "none",
    "auth client required": "none",
    "public addr": LOOPBACK,
    "cluster addr": LOOPBACK,
    "ms bind msgr2": "false",
    # Objects live in memory and one copy is enough.
    "osd objectstore": "memstore",
    "memstore device bytes": str(2 << 30),
    "osd pool default size": "1",
    "osd pool default min size": "1",
    "osd pool default pg num": "1",
    "osd pool default pgp num": "1",
    "mon allow pool size one": "true",
    "mon max pg per osd": "1000",
    "mon data avail crit": "1",
    "rgw rados pool pg num min": "1",
    "osd crush chooseleaf type": "0",
    # Without the manager daemon and systemd the OSD would otherwise refuse its own identity.
    "osd crush update on start": "false",
    "osd class update on start": "false",
    "rgw thread pool size": "32",
    "rgw run sync thread": "false",
}


def postgres_program(name: str) -> str | None:
    """The newest installed PostgreSQL's program; Debian keeps them out of the search path."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    return str(found[-1]) if found else shutil.which(name)


@contextmanager
def postgres(folder: Path) -> Iterator[dict[str, str]]:
    """A PostgreSQL server that forgets everything; as root it runs as another user, because it insists."""
    user = _unprivileged_user()
    if user:
        shutil.chown(folder, user)
    data, port = folder / "data", free_port()
    initdb = [
        postgres_program("initdb"),
        "-D",
        data,
        "-U",
        "tests",
        "-A",
        "trust",
        "--no-sync",
        "-E",
        "UTF8",
        "--locale=C.UTF-8",
    ]
    _run(initdb, folder, user=user)
    settings = {
        "listen_addresses": LOOPBACK,
        "unix_socket_directories": "",
        "fsync": "off",
        "synchronous_commit": "off",
        "full_page_writes": "off",
        "shared_buffers": "32MB",
        "max_connections": "100",
        "timezone": "UTC",
    }
    options = [f"--{name}={value}" for name, value in settings.items()]
    command: list[str | Path] = [str(postgres_program("postgres")), "-D", data, "-p", str(port), *options]
    # SIGINT is PostgreSQL's "now, whoever is connected".
    log = folder / "postgres.log"
    with Daemon("postgres", command, log=log, life_s=LIFE_S, user=user, cwd=folder, stop_signal=signal.SIGINT) as server:
        ready = [str(postgres_program("pg_isready")), "-q", "-h", LOOPBACK, "-p", str(port)]
        server.wait_until_ready(lambda: subprocess.run(ready, check=False, timeout=10).returncode == 0)
        yield {"url": f"postgresql+psycopg://tests@{LOOPBACK}:{port}/postgres"}


@contextmanager
def ceph(folder: Path) -> Iterator[dict[str, str]]:
    """Ceph's S3 gateway on one monitor and one in-memory object daemon."""
    configuration, s3_port, mon_port = folder / "ceph.conf", free_port(), free_port()
    cluster, osd = str(uuid.uuid4()), str(uuid.uuid4())
    _write_ceph_configuration(configuration, cluster=cluster, mon_port=mon_port, s3_port=s3_port)
    for name in ("mon", "osd", "rgw"):
        (folder / name).mkdir()
    monmap = folder / "monmap"
    address = f"[v1:{LOOPBACK}:{mon_port}]"
    _run(["monmaptool", "--create", "--clobber", "--fsid", cluster, "--addv", "a", address, monmap], folder)
    options: list[str | Path] = ["-c", configuration]
    _run(["ceph-mon", *options, "-i", "a", "--mkfs", "--monmap", monmap], folder)
    with ExitStack() as daemons:

        def start(name: str, *command: str | Path) -> Daemon:
            return daemons.enter_context(Daemon(name, [*command, "-f"], log=folder / f"{name}.log", life_s=LIFE_S))

        start("mon", "ceph-mon", *options, "-i", "a")
        _run(["ceph", *options, "osd", "new", osd, "0"], folder)
        _run(["ceph-osd", *options, "-i", "0", "--mkfs", "--osd-uuid", osd], folder)
        start("osd", "ceph-osd", *options, "-i", "0")
        _run(["ceph", *options, "osd", "crush", "add", "osd.0", "1.0", "root=default", "host=localhost"], folder)
        gateway = start("rgw", "radosgw", *options, "-n", "client.rgw")
        endpoint = f"http://{LOOPBACK}:{s3_port}"
        gateway.wait_until_ready(lambda: answers(endpoint), deadline_s=90)
        keys = [f"--access-key={_ACCESS_KEY}", f"--secret={_SECRET_KEY}"]
        _run(["radosgw-admin", *options, "user", "create", "--uid=tests", "--display-name=tests", *keys], folder)
        yield {"endpoint_url": endpoint, "access_key_id": _ACCESS_KEY, "secret_access_key": _SECRET_KEY}


def _write_ceph_configuration(path: Path, *, cluster: str, mon_port: int, s3_port: int) -> None:
    folder, first = path.parent, free_port()
    settings = _CEPH | {
        "fsid": cluster,
        "mon host": f"[v1:{LOOPBACK}:{mon_port}]",
        "ms bind port min": str(first),
        "ms bind port max": str(first + 100),
        "run dir": str(folder),
        "admin socket": f"{folder}/$name.asok",
        "log file": f"{folder}/$name.log",
        "mon data": f"{folder}/mon",
        "osd data": f"{folder}/osd",
        "rgw data": f"{folder}/rgw",
        "rgw frontends": f"beast endpoint={LOOPBACK}:{s3_port}",
    }
    path.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))


def _unprivileged_user() -> str | None:
    if os.getuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _run(command: Sequence[str | Path | None], folder: Path, *, user: str | None = None) -> None:
    """Run a step to its end; what it says goes to the keeper's log."""
    arguments = [str(part) for part in command]
    subprocess.run(arguments, cwd=folder, check=True, timeout=90, stdin=subprocess.DEVNULL, **as_user(user))


SERVICES: dict[str, Callable[[Path], AbstractContextManager[dict[str, str]]]] = {"postgres": postgres, "ceph": ceph}


@contextmanager
def lease(kind: str, folder: Path) -> Iterator[dict[str, str]]:
    """Use the service of this kind that belongs to ``folder``; it is started by the first who asks."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "starting").open("w") as starting, (folder / "lease").open("w") as held:
        fcntl.flock(starting, fcntl.LOCK_EX)
        fcntl.flock(held, fcntl.LOCK_SH)
        state = folder / "state.json"
        if not state.exists():
            _start_keeper(kind, folder)
        fcntl.flock(starting, fcntl.LOCK_UN)
        yield json.loads(state.read_text())


def _start_keeper(kind: str, folder: Path) -> None:
    """Start it, again if need be: between choosing a free port and taking it, another run's service may have taken it."""
    log = folder / "keeper.log"
    command = [sys.executable, "-m", "tests.service_keeper", kind, str(folder)]
    for _ in range(START_ATTEMPTS):
        with log.open("w") as output:
            done = subprocess.run(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False, timeout=180
            )
        if not done.returncode:
            return
    raise DidNotStart(f"{kind}\n{log.read_text(errors='replace')[-4000:]}")


def main(kind: str, folder: Path) -> int:
    """Start the service in a process of its own; return when it is ready, 1 when it did not get there."""
    state = folder / "state.json"
    keeper = os.fork()
    if not keeper:
        os.setsid()
        _keep(kind, folder, state)
        return 0
    ended: list[int] = []

    def ready() -> bool:
        ended.append(os.waitpid(keeper, os.WNOHANG)[0])
        return state.exists() or keeper in ended

    wait_until(ready, deadline_s=150, what=kind)
    return 0 if state.exists() else 1


def _keep(kind: str, folder: Path, state: Path) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    work = Path(tempfile.mkdtemp(prefix=f"deltafleet-{kind}-"))
    try:
        with SERVICES[kind](work) as answer:
            written = state.with_suffix(".new")
            written.write_text(json.dumps(answer))
            written.replace(state)
            with (folder / "lease").open("w") as held:
                _wait_until_unused(held)
                state.unlink()
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _wait_until_unused(held: IO[str]) -> None:
    end = time.monotonic() + LIFE_S
    while time.monotonic() < end:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.2)
        else:
            return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
