"""The wish to end, seen by everything that takes long."""

from __future__ import annotations

import threading


class Stopped(Exception):
    """The agent is ending. The journal knows where it was; nothing is lost by leaving at once."""


class StopSignal:
    """Set once, from a signal handler or a test; waits are cut short by it."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    @property
    def is_set(self) -> bool:
        return self._event.is_set()

    def check(self) -> None:
        """Raises Stopped when the agent is ending."""
        if self._event.is_set():
            raise Stopped

    def wait(self, seconds: float) -> bool:
        """Sleep, but not beyond the wish to end; true when the agent is ending."""
        return self._event.wait(seconds)
