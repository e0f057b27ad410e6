"""The agent's only way to the network: GET with Range, and POST, over pooled connections.

Rules: every answer has a cap in bytes and a pace (``pace``); nothing is decompressed on the way; no cookie, credential or
referrer is ever sent, so a redirect to a presigned storage URL or a CDN leaks nothing; a redirect never leaves https; plain
http is for this machine alone unless the vehicle's owner allows it. *Unreachable* means "try again later"; nothing here decides
about trust.
"""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_address
from pathlib import Path
from typing import Protocol
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from client_agent.pace import Pace, PacedHttpConnection, PacedHttpsConnection, PaceLimits, current_pace
from model_registry.contract.errors import LimitExceeded, Unreachable
from model_registry.contract.messages import MAX_MESSAGE_BYTES

CHUNK_BYTES = 64 * 1024
MAX_REDIRECTS = 4
MAX_REFUSAL_BYTES = 4 * 1024
REDIRECTS = (301, 302, 303, 307, 308)


class HttpStatus(Unreachable):
    """The server answered, with a status that is not what was asked for. ``status`` is its number."""

    def __init__(self, status: int, url: str) -> None:
        super().__init__(f"{shown(url)} answered {status}")
        self.status = status


@dataclass(frozen=True, slots=True)
class Response:
    """An answer to a POST, whatever its status; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport(Protocol):
    """What the rest of the agent knows of the network."""

    def get(self, url: str, *, max_bytes: int, start: int = 0) -> Iterator[bytes]:
        """Yield a resource's bytes from offset ``start`` on, at most ``max_bytes`` of them.

        Raises Unreachable (HttpStatus for any status but success) and LimitExceeded, at any moment of the iteration.
        """
        ...

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Response:
        """Send ``body``; the answer is at most MAX_MESSAGE_BYTES. Raises Unreachable and LimitExceeded."""
        ...


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """Whom to believe (``ca_file``; the system's authorities by default) and, for mutual TLS, who we are."""

    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    allow_plain_http: bool = False

    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.certificate_file is not None:
            context.load_cert_chain(self.certificate_file, self.key_file)
        return context


class HttpTransport:
    """``Transport`` over urllib3. Connections are kept between calls; safe to use from several threads."""

    def __init__(self, tls: TlsSettings, limits: PaceLimits, *, connections: _Connections | None = None) -> None:
        self._tls = tls
        self._limits = limits
        self._connections = connections or _Connections(tls, limits)
        self._count: Callable[[int], None] = _ignore

    def counting(self, count: Callable[[int], None]) -> HttpTransport:
        """The same transport, sharing its connections, that tells ``count`` how many body bytes arrive, wanted or not."""
        other = HttpTransport(self._tls, self._limits, connections=self._connections)
        other._count = count
        return other

    def get(self, url: str, *, max_bytes: int, start: int = 0) -> Iterator[bytes]:
        """See ``Transport``. A server that ignores Range costs the bytes before ``start`` again; they are skipped."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        with self._exchange("GET", url, headers) as (response, final_url):
            if response.status not in (200, 206):
                self._read_to_end(response, final_url)
                raise HttpStatus(response.status, url)
            skip = start if response.status == 200 else 0
            if response.status == 206 and not _starts_at(response, start):
                raise Unreachable(f"{shown(final_url)} sent another range than asked for")
            yield from _skipped(self._body(response, final_url, skip + max_bytes), skip)

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Response:
        """See ``Transport``. A redirect is returned, not followed: a signed message goes to the address it was meant for."""
        with self._exchange("POST", url, dict(headers), body) as (response, _):
            data = b"".join(self._body(response, url, MAX_MESSAGE_BYTES))
            return Response(response.status, {k.lower(): v for k, v in response.headers.items()}, data)

    @contextmanager
    def _exchange(
        self, method: str, url: str, headers: dict[str, str], body: bytes | None = None
    ) -> Iterator[tuple[urllib3.BaseHTTPResponse, str]]:
        response: urllib3.BaseHTTPResponse | None = None
        try:
            response, final_url = self._paced_request(method, url, headers, body)
            yield response, final_url
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as exc:
            raise Unreachable(f"{shown(url)} did not answer in full: {_cause(exc)}") from exc
        finally:
            if response is not None:
                # An answer that was read to its end has given its connection back already; any other must not be used again.
                response.close()

    def _paced_request(
        self, method: str, url: str, headers: dict[str, str], body: bytes | None
    ) -> tuple[urllib3.BaseHTTPResponse, str]:
        token = current_pace.set(Pace(self._limits))
        try:
            return self._request(method, url, headers, body)
        finally:
            current_pace.reset(token)

    def _request(
        self, method: str, url: str, headers: dict[str, str], body: bytes | None
    ) -> tuple[urllib3.BaseHTTPResponse, str]:
        for _ in range(MAX_REDIRECTS + 1):
            self._check_scheme(url)
            response = self._send(method, url, headers, body)
            if method != "GET" or response.status not in REDIRECTS:
                return response, url
            target = urljoin(url, response.headers.get("Location", ""))
            response.close()
            if urlsplit(url).scheme == "https" and urlsplit(target).scheme != "https":
                raise Unreachable(f"{shown(url)} redirects away from https")
            url = target
        raise Unreachable(f"{shown(url)}: more than {MAX_REDIRECTS} redirects")

    def _send(self, method: str, url: str, headers: dict[str, str], body: bytes | None) -> urllib3.BaseHTTPResponse:
        return self._connections.pool.request(
            method,
            url,
            body=body,
            headers={"Accept-Encoding": "identity", "User-Agent": "deltafleet-agent", **headers},
            redirect=False,
            retries=False,
            preload_content=False,
            decode_content=False,
        )

    def _check_scheme(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme == "https" or (parts.scheme == "http" and (self._tls.allow_plain_http or _is_loopback(parts.hostname))):
            return
        raise Unreachable(
            f"{shown(url)} is not an https address", remedy="use https, or set allow_plain_http on a network of your own"
        )

    def _read_to_end(self, response: urllib3.BaseHTTPResponse, url: str) -> None:
        """Take the short body of a refusal, so that its connection serves again. Every check of signed metadata ends in a 404
        (is there a newer root?), and a TLS handshake costs more than the whole check."""
        declared = response.headers.get("Content-Length", "")
        if declared.isdecimal() and int(declared) <= MAX_REFUSAL_BYTES:
            for _ in self._body(response, url, MAX_REFUSAL_BYTES):
                pass

    def _body(self, response: urllib3.BaseHTTPResponse, url: str, cap: int) -> Iterator[bytes]:
        declared = response.headers.get("Content-Length", "")
        if declared.isdecimal() and int(declared) > cap:
            raise LimitExceeded(f"{shown(url)} announces {declared} bytes, at most {cap} are taken")
        received = 0
        while chunk := response.read1(CHUNK_BYTES):
            received += len(chunk)
            self._count(len(chunk))
            if received > cap:
                raise LimitExceeded(f"{shown(url)} sends more than {cap} bytes")
            yield chunk


def shown(url: str) -> str:
    """An address fit for a log: without query and user, where presigned URLs carry their signature."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class _Connections:
    """The kept connections, made at first use: a missing certificate must not keep the installed model from answering."""

    def __init__(self, tls: TlsSettings, limits: PaceLimits) -> None:
        self._tls = tls
        self._timeout = urllib3.Timeout(connect=limits.connect_s, read=limits.gap_s)

    @cached_property
    def pool(self) -> urllib3.PoolManager:
        try:
            context = self._tls.context()
        except OSError as exc:
            remedy = "see ca_file, certificate_file and key_file in the settings"
            raise Unreachable(f"the certificates cannot be used: {exc}", remedy=remedy) from exc
        pool = urllib3.PoolManager(num_pools=4, maxsize=1, timeout=self._timeout, ssl_context=context)
        pool.pool_classes_by_scheme = {"http": _PacedHttpPool, "https": _PacedHttpsPool}
        return pool


class _PacedHttpPool(HTTPConnectionPool):
    ConnectionCls = PacedHttpConnection


class _PacedHttpsPool(HTTPSConnectionPool):
    ConnectionCls = PacedHttpsConnection


def _skipped(chunks: Iterator[bytes], skip: int) -> Iterator[bytes]:
    for chunk in chunks:
        if skip < len(chunk):
            yield chunk[skip:]
        skip = max(skip - len(chunk), 0)


def _starts_at(response: urllib3.BaseHTTPResponse, start: int) -> bool:
    return response.headers.get("Content-Range", "").startswith(f"bytes {start}-")


def _is_loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ip_address(host or "").is_loopback
    except ValueError:
        return False


def _cause(exc: BaseException) -> str:
    while exc.__cause__ is not None:
        exc = exc.__cause__
    return str(exc) or type(exc).__name__


def _ignore(size: int) -> None:
    """Count for nobody."""
