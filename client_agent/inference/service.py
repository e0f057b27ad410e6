"""Inference for the programs of this vehicle: the Open Inference Protocol over HTTP, on a Unix socket or a local port.

    GET  /v2                             the server
    GET  /v2/health/live | ready         ready: a model answers
    GET  /v2/models/NAME[/versions/V]    what it takes and gives; NAME is the family
    GET  /v2/models/NAME/ready
    POST /v2/models/NAME/infer           tensors as JSON
    POST /v2/models/NAME/classify?top=5  an encoded picture as the body; an extension

Rules: a body has a length, a cap and a deadline; at most ``MAX_CONNECTIONS`` at once; every answer names the version that gave
it; a swap is never seen by a client; at the end the door is closed first, then what is inside is answered.
"""

from __future__ import annotations

import json
import logging
import re
import socket
import socketserver
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from client_agent.inference.engine import MAX_TOP, Engine, RequestRefused
from client_agent.inference.live import Live, NoModel
from client_agent.inference.protocol import classify_answer, infer_answer, model_metadata, parse_infer
from model_registry.contract.errors import Refusal

log = logging.getLogger(__name__)
MAX_BODY_BYTES = 16 * 1024 * 1024
MAX_CONNECTIONS = 64
BODY_S = 30.0
IDLE_S = 120.0
DRAIN_S = 10.0
MODEL_PATH = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(?:/(ready|infer|classify))?")


class ListenRefused(Refusal):
    """The address to listen on is unusable."""

    code = "listen_refused"


class NoSuchModel(Refusal):
    """Another model, or another version of it, answers here."""

    code = "no_such_model"


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: a Unix socket's path, or a loopback host and a port (0 takes a free one)."""

    path: Path | None = None
    host: str = "127.0.0.1"
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read "unix:PATH" or "127.0.0.1:PORT". Raises ListenRefused: inference is for this machine alone."""
        if text.startswith("unix:") and len(text) > len("unix:"):
            return cls(path=Path(text.removeprefix("unix:")))
        host, _, port = text.rpartition(":")
        with suppress(ValueError):
            if ip_address(host).is_loopback and ip_address(host).version == 4 and 0 <= int(port) < 65536:
                return cls(host=host, port=int(port))
        raise ListenRefused(f"cannot listen on {text!r}", remedy="use unix:PATH or 127.0.0.1:PORT")


class InferenceService:
    """Serves one ``Live``. Start it, stop it once."""

    def __init__(self, live: Live, address: Address) -> None:
        self._address = address
        self._server = _open(address)
        self._server.live = live
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="inference", daemon=True)

    @property
    def address(self) -> str:
        """Where it really listens, as ``Address.parse`` reads it."""
        if self._address.path is not None:
            return f"unix:{self._address.path}"
        host, port = self._server.server_address[:2]
        return f"{host!s}:{port}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Take no more connections, answer every question that has arrived, then return."""
        self._server.draining = True
        self._server.shutdown()
        self._server.server_close()
        if self._address.path is not None:
            self._address.path.unlink(missing_ok=True)
        self._server.wait_idle(DRAIN_S)


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, address: Any, handler: type[BaseHTTPRequestHandler]) -> None:
        self.live = Live()
        self.draining = False
        self._idle = threading.Condition()
        self._busy = 0
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._slots.acquire(blocking=False):
            with suppress(OSError):
                request.sendall(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            # No thread was started that would give the place back.
            self._slots.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        log.info("a client's connection ended early", exc_info=True)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """While a question is being answered."""
        with self._idle:
            self._busy += 1
        try:
            yield
        finally:
            with self._idle:
                self._busy -= 1
                self._idle.notify_all()

    def wait_idle(self, seconds: float) -> None:
        with self._idle:
            self._idle.wait_for(lambda: self._busy == 0, seconds)


class _UnixServer(_Server):
    address_family = socket.AF_UNIX

    def server_bind(self) -> None:
        path = Path(str(self.server_address))
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        super().server_bind()
        path.chmod(0o660)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "deltafleet-agent"
    sys_version = ""
    timeout = IDLE_S
    # Headers and body leave in one packet.
    wbufsize = -1
    server: _Server

    def do_GET(self) -> None:
        with self.server.busy():
            self._answer(self._get)

    def do_POST(self) -> None:
        with self.server.busy():
            self._answer(self._post)

    def _answer(self, act: Any) -> None:
        try:
            status, body = act()
        except RequestRefused as exc:
            status, body = 400, _error(exc)
        except NoSuchModel as exc:
            status, body = 404, _error(exc)
        except NoModel as exc:
            status, body = 503, _error(exc)
        except Refusal as exc:
            status, body = 500, _error(exc)
        except OSError:
            # The client is gone, or too slow to be one.
            self.close_connection = True
            return
        except Exception:
            log.exception("a question ended in a mistake of this program")
            status, body = 500, {"error": "internal error", "code": "internal_error"}
        self._send(status, body)

    def _get(self) -> tuple[int, dict[str, Any]]:
        path = urlsplit(self.path).path
        live = self.server.live
        if path == "/v2":
            return 200, {"name": "deltafleet-agent", "version": "2", "extensions": ["classify"]}
        if path == "/v2/health/live":
            return 200, {"live": True}
        if path == "/v2/health/ready":
            ready = live.sha256 is not None
            return (200 if ready else 503), {"ready": ready}
        action = self._model_path(path)
        engine = self._named(live.engine, action)
        if action[2] == "ready":
            return 200, {"name": engine.manifest.family, "ready": True}
        if action[2] is not None:
            raise NoSuchModel(f"{path} is asked by POST")
        return 200, model_metadata(engine)

    def _post(self) -> tuple[int, dict[str, Any]]:
        parts = urlsplit(self.path)
        # Read before anything is refused: the connection goes on with the next question.
        body = self._body()
        action = self._model_path(parts.path)
        live = self.server.live
        self._named(live.engine, action)
        if action[2] == "infer":
            request = parse_infer(body)
            engine, outputs = live.run(request.inputs)
            return 200, infer_answer(engine, outputs, request.request_id)
        if action[2] == "classify":
            engine, guesses = live.classify(body, _top(parts.query))
            return 200, classify_answer(engine, guesses)
        raise NoSuchModel(f"nothing is asked by POST at {parts.path}")

    def _model_path(self, path: str) -> tuple[str, str | None, str | None]:
        match = MODEL_PATH.fullmatch(path)
        if match is None:
            raise NoSuchModel(f"nothing is at {path}")
        return match[1], match[2], match[3]

    def _named(self, engine: Engine, path: tuple[str, str | None, str | None]) -> Engine:
        name, version, _ = path
        if name != engine.manifest.family or version not in (None, engine.manifest.version):
            raise NoSuchModel(f"{engine.manifest.family} {engine.manifest.version} answers here")
        return engine

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            self.close_connection = True
            raise RequestRefused(f"a body needs a Content-Length of at most {MAX_BODY_BYTES}")
        ends_at, data = time.monotonic() + BODY_S, bytearray()
        while len(data) < int(length):
            block = self.rfile.read1(int(length) - len(data))
            data += block
            if not block or time.monotonic() > ends_at:
                self.close_connection = True
                raise RequestRefused("the body did not arrive in full")
        return bytes(data)

    def _send(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if self.server.draining:
            self.close_connection = True
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Thirty questions a second are no news."""


def _open(address: Address) -> _Server:
    try:
        if address.path is not None:
            return _UnixServer(str(address.path), _Handler)
        return _Server((address.host, address.port), _Handler)
    except OSError as exc:
        # A path that is too long has no errno.
        where, why = address.path or f"{address.host}:{address.port}", exc.strerror or exc
        raise ListenRefused(f"cannot listen on {where}: {why}") from exc


def _remove_stale(path: Path) -> None:
    """Remove the socket of an agent that was killed; one that answers is somebody's. Raises ListenRefused."""
    if not path.exists():
        return
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise ListenRefused(f"{path} is a file, not a socket")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink()
            return
    raise ListenRefused(f"another program listens on {path}", remedy="choose another address with --listen")


def _top(query: str) -> int:
    text = parse_qs(query).get("top", ["5"])[0]
    if not text.isdecimal() or not 1 <= int(text) <= MAX_TOP:
        raise RequestRefused(f"top is a number from 1 to {MAX_TOP}")
    return int(text)


def _error(refusal: Refusal) -> dict[str, str]:
    return {"error": str(refusal), "code": refusal.code}
