"""``deltafleet serve``, ``worker`` and ``migrate``: the registry's processes."""

from __future__ import annotations

import logging
import signal
import socket
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated

import typer

Data = Annotated[
    Path | None, typer.Option(help="Folder for all state. Default: DELTAFLEET_DATA, or ./deltafleet-data.", file_okay=False)
]
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
BACKLOG = 2048
SHUTDOWN_S = 10


def serve(
    data: Data = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = 8000,
) -> None:
    """Run the registry: API, dashboard, and (unless switched off) a worker.

    With nothing set, all state lives in one folder: SQLite, files, keys, the operator token.
    """
    import uvicorn

    from server.app import create_app
    from server.bootstrap import build, prepare, publish_metadata
    from server.settings import load_settings

    _log()
    settings = load_settings(data=data)
    prepare(settings)
    registry = build(settings)
    if settings.embedded_worker:
        publish_metadata(registry)
    listener = _listen(host, port)
    url = settings.external_url or f"http://{_shown(host)}:{listener.getsockname()[1]}"
    config = uvicorn.Config(
        create_app(settings, registry),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_S,
    )
    _greet(url, settings.data, token_in_file=settings.operator_token is None)
    for number in (signal.SIGTERM, signal.SIGINT):
        # The web server raises the signal again once it has shut down in order; by then there is nothing left to do.
        signal.signal(number, lambda *_: None)
    uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    from server.settings import SettingsRefused

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as exc:
        listener.close()
        raise SettingsRefused(f"cannot listen on {host}:{port}: {exc.strerror or exc}", remedy="choose another --port") from exc
    listener.listen(BACKLOG)
    return listener


def _shown(host: str) -> str:
    """The address as this machine's browser can open it."""
    with suppress(ValueError):  # a name, not an address
        if ip_address(host).is_unspecified:
            return "localhost"
    return f"[{host}]" if ":" in host else host


def _greet(url: str, data: Path, *, token_in_file: bool) -> None:
    print(f"Deltafleet registry: {url}  (dashboard: {url}/dashboard)")
    if token_in_file:
        print(f"Operator token: {data / 'operator-token'}")
    command = f"DELTAFLEET_DATA={data} deltafleet publish model.dfm --family demo --version 1.0.0 --server {url}"
    print(f"Try: {command}", flush=True)


def worker(data: Data = None) -> None:
    """Run a worker by itself: it compresses, makes deltas, signs, and moves rollouts on."""
    from server.bootstrap import build, publish_metadata
    from server.settings import load_settings
    from server.worker import Worker

    _log()
    settings = load_settings(data=data)
    settings.scratch_directory.mkdir(parents=True, exist_ok=True)
    registry = build(settings)
    publish_metadata(registry)
    # Not an Event: a handler that runs while the main thread is about to wait for it would wait for the main thread.
    ends: SimpleQueue[int] = SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: ends.put(number))
    running = Worker(registry)
    running.start()
    logging.getLogger(__name__).info("the worker runs")
    ends.get()
    running.stop()
    registry.close()


def migrate(data: Data = None) -> None:
    """Bring the database to this program's schema. `serve` does it by itself for the database in its own folder."""
    from server.bootstrap import migrate_database
    from server.settings import load_settings

    migrate_database(load_settings(data=data))
    print("the database is up to date")


def _log() -> None:
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    for chatty in ("alembic", "httpx2", "uvicorn.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
