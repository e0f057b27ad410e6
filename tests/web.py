"""Small real servers on 127.0.0.1: one that answers from a function, one that speaks raw bytes."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Answer:
    """``cut_after``: send only so many body bytes of the announced ones, then hang up, or wait for ``rest`` and go on."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    rest: threading.Event | None = None


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is what many a test is about."""


@contextmanager
def http_server(answer: Callable[[Request], Answer], *, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """The base URL of a server that answers every request by ``answer``, with keep-alive."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def do_GET(self) -> None:
            size = int(self.headers.get("Content-Length", 0))
            headers = {k.lower(): v for k, v in self.headers.items()}
            reply = answer(Request(self.command, self.path, headers, self.rfile.read(size)))
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body[: reply.cut_after])
            if reply.rest is not None:
                reply.rest.wait(self.timeout)
                self.wfile.write(reply.body[reply.cut_after :])
            elif reply.cut_after is not None:
                self.close_connection = True

        do_POST = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@contextmanager
def raw_server(talk: Callable[[socket.socket, threading.Event], None]) -> Iterator[str]:
    """The base URL of a server that reads a request per connection, then lets ``talk`` write what it likes until the event."""
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def serve() -> None:
        while not over.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                try:
                    connection.recv(65536)
                    talk(connection, over)
                except OSError:
                    continue

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def ranged(data: bytes, request: Request) -> Answer:
    """Answer like a static file server that honours ``Range: bytes=N-``."""
    wanted = request.headers.get("range")
    if wanted is None:
        return Answer(body=data)
    start = int(wanted.removeprefix("bytes=").removesuffix("-"))
    if start >= len(data):
        return Answer(416, headers={"Content-Range": f"bytes */{len(data)}"})
    return Answer(206, data[start:], {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"})
