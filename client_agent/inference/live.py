"""The model that answers, and how another takes its place while clients keep asking.

A new engine is loaded, warmed and proven beside the running one. Then one reference is flipped under a lock; every question
holds the engine it began with, counted, and the old one is freed when its last question is answered. No question waits and none
is lost.
"""

from __future__ import annotations

import ctypes
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from client_agent.inference.engine import Engine, Guess, RequestRefused
from client_agent.stop import StopSignal
from model_registry.contract.errors import Refusal

log = logging.getLogger(__name__)
DRAIN_S = 30.0
# One odd answer in a hundred is not yet a bad model; the third fault, with a share above this, is.
FAULTS = 3
FAULT_SHARE = 0.05


class NoModel(Refusal):
    """Nothing is installed yet, or nothing installed is fit to answer."""

    code = "no_model"

    def __init__(self) -> None:
        super().__init__("no model is installed", remedy="wait for the first update, or run: deltafleet-agent check")


@dataclass(frozen=True, slots=True)
class Counters:
    """Questions answered, and questions that a model failed, since the agent was installed."""

    served: int = 0
    failed: int = 0


class _Seat:
    """An engine in use, with what happened to it."""

    def __init__(self, engine: Engine) -> None:
        self.engine: Engine | None = engine
        self.in_flight = 0
        self.answers = 0
        self.faults = 0

    @property
    def unhealthy(self) -> bool:
        return self.faults >= FAULTS and self.faults > FAULT_SHARE * self.answers


class Live:
    """Holds the engine that answers. Thread-safe."""

    def __init__(self, counters: Counters | None = None) -> None:
        self._changed = threading.Condition()
        self._seat: _Seat | None = None
        self._counters = counters or Counters()

    @property
    def sha256(self) -> str | None:
        """Digest of the content that answers."""
        seat = self._seat
        return seat.engine.sha256 if seat and seat.engine else None

    @property
    def counters(self) -> Counters:
        with self._changed:
            return self._counters

    @property
    def engine(self) -> Engine:
        """The engine that answers now, for its description. Raises NoModel."""
        seat = self._seat
        if seat is None or seat.engine is None:
            raise NoModel
        return seat.engine

    def put(self, engine: Engine | None) -> None:
        """Let another engine answer from the next question on; returns when the former one is drained and freed."""
        with self._changed:
            former, self._seat = self._seat, _Seat(engine) if engine else None
            if former is None:
                return
            if not self._changed.wait_for(lambda: former.in_flight == 0, DRAIN_S):
                log.warning("%d questions still run on the former model", former.in_flight)
            former.engine = None
        trim()

    def run(self, inputs: dict[str, npt.NDArray[Any]]) -> tuple[Engine, list[npt.NDArray[Any]]]:
        """Answer by tensors, and say which engine did. Raises NoModel, RequestRefused, ModelUnusable."""
        with self._question() as engine:
            return engine, engine.run(inputs)

    def classify(self, picture: bytes | npt.NDArray[np.uint8], top: int) -> tuple[Engine, list[Guess]]:
        """Answer by classes, and say which engine did. Raises NoModel, RequestRefused, ModelUnusable."""
        with self._question() as engine:
            return engine, engine.classify(picture, top=top)

    def verdict(self, *, answers: int, seconds: float, stop: StopSignal, clock: Callable[[], float] = time.monotonic) -> bool:
        """Watch the engine that answers: False once it is unhealthy, True after ``answers`` without a fault or ``seconds``.

        Raises Stopped.
        """
        ends_at = clock() + seconds
        with self._changed:
            while True:
                stop.check()
                seat = self._seat
                if seat is None or seat.unhealthy:
                    return False
                left = ends_at - clock()
                if left <= 0 or (seat.answers >= answers and seat.faults == 0):
                    return True
                self._changed.wait(min(left, 0.2))

    @contextmanager
    def _question(self) -> Iterator[Engine]:
        with self._changed:
            seat = self._seat
            if seat is None or seat.engine is None:
                raise NoModel
            seat.in_flight += 1
            engine = seat.engine
        try:
            yield engine
        except RequestRefused:
            # The client's mistake says nothing about the model.
            self._done(seat, served=0, failed=0)
            raise
        except BaseException:
            self._done(seat, served=0, failed=1)
            raise
        self._done(seat, served=1, failed=0)

    def _done(self, seat: _Seat, *, served: int, failed: int) -> None:
        with self._changed:
            seat.in_flight -= 1
            seat.answers += served + failed
            seat.faults += failed
            self._counters = Counters(self._counters.served + served, self._counters.failed + failed)
            self._changed.notify_all()


def trim() -> None:
    """Give freed memory back to the system; without it forty swaps nearly double the process."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
