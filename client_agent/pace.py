"""How long one HTTP exchange may take: a gap, a total, and a minimum rate, enforced at every read of the socket.

An HTTP library's timeout bounds the silence between two reads; a server that sends one byte every few seconds, in a header or
in a body, keeps such a client for days. ``PacedReader`` sits below the library's parser, so nothing that is read escapes it.
"""

from __future__ import annotations

import http.client
import io
import socket
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection


@dataclass(frozen=True, slots=True)
class PaceLimits:
    """Seconds of silence, seconds in all, and the rate that every ``window_s`` seconds of waiting must bring."""

    connect_s: float = 10.0
    gap_s: float = 20.0
    total_s: float = 1800.0
    window_s: float = 20.0
    min_bytes_per_s: float = 100.0


class Pace:
    """Watches one exchange. Only time spent waiting for the network counts against the rate; the total counts all of it."""

    def __init__(self, limits: PaceLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._ends_at = clock() + limits.total_s
        self._waited_s = 0.0
        self._window_bytes = 0

    def patience_s(self) -> float:
        """How long the next read may block. Raises TimeoutError when the exchange has had its time."""
        left = self._ends_at - self._clock()
        if left <= 0:
            raise TimeoutError(f"not done after {self._limits.total_s:g} seconds")
        return min(left, self._limits.gap_s)

    def waited(self, seconds: float, size: int) -> None:
        """Account for a read. Raises TimeoutError when a window brought less than the minimum rate."""
        self._waited_s += seconds
        self._window_bytes += size
        if self._waited_s < self._limits.window_s:
            return
        if self._window_bytes < self._limits.min_bytes_per_s * self._waited_s:
            raise TimeoutError(f"slower than {self._limits.min_bytes_per_s:g} bytes a second")
        self._waited_s, self._window_bytes = 0.0, 0

    def read(self, sock: socket.socket, raw: io.RawIOBase, buffer: Any) -> int | None:
        """One read of ``raw``, which reads ``sock``, within the limits."""
        sock.settimeout(self.patience_s())
        started = self._clock()
        try:
            size: int | None = raw.readinto(buffer)
        except TimeoutError:
            self.patience_s()
            # The system's "timed out" would say less.
            raise TimeoutError(f"silent for {self._clock() - started:.3g} seconds") from None
        self.waited(self._clock() - started, size or 0)
        return size


# The parser is created deep inside urllib3, which knows nothing of paces; an exchange is set up in one thread from end to end.
current_pace: ContextVar[Pace] = ContextVar("current_pace")


class PacedReader(io.RawIOBase):
    """The socket's byte stream, each read of which is watched by a ``Pace``."""

    def __init__(self, sock: socket.socket, pace: Pace) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._pace = pace

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        return self._pace.read(self._sock, self._raw, buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class PacedResponse(http.client.HTTPResponse):
    """http.client's parser reading through a ``PacedReader``."""

    def __init__(self, sock: socket.socket, debuglevel: int = 0, method: str | None = None, url: str | None = None) -> None:
        super().__init__(sock, debuglevel, method, url)
        self.fp.close()
        self.fp = io.BufferedReader(PacedReader(sock, current_pace.get()))


class PacedHttpConnection(HTTPConnection):
    """An http connection whose answers are paced."""

    response_class = PacedResponse


class PacedHttpsConnection(HTTPSConnection):
    """An https connection whose answers are paced."""

    response_class = PacedResponse
