"""The drivers' side: one client a vehicle shows it road signs without pause and counts every answer it did not get."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx2

from examples.signs.render import Sample

PAUSE_S = 0.1
TIMEOUT_S = 10.0


@dataclass
class Camera(threading.Thread):
    """Posts pictures to one vehicle's socket until stopped; an answer that is late, broken or missing is dropped."""

    socket: Path
    family: str
    samples: Sequence[Sample]
    served: int = 0
    dropped: int = 0
    correct: int = 0
    last_problem: str = ""

    def __post_init__(self) -> None:
        super().__init__(daemon=True, name=f"camera {self.socket.name}")
        self._stop_asked = threading.Event()

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        transport = httpx2.HTTPTransport(uds=str(self.socket))
        with httpx2.Client(transport=transport, base_url="http://vehicle", timeout=TIMEOUT_S) as client:
            for sample in itertools.cycle(self.samples):
                if self._stop_asked.wait(PAUSE_S):
                    return
                self._ask(client, sample)

    def stop(self) -> None:
        self._stop_asked.set()

    def _ask(self, client: httpx2.Client, sample: Sample) -> None:
        try:
            response = client.post(f"/v2/models/{self.family}/classify", content=sample.jpeg)
            response.raise_for_status()
            best = response.json()["classes"][0]["label"]
        except (httpx2.HTTPError, ValueError, LookupError) as exc:
            self.dropped += 1
            self.last_problem = repr(exc)
            return
        self.served += 1
        self.correct += best == sample.label


def is_answering(socket: Path, family: str) -> bool:
    """Whether the vehicle behind ``socket`` has a model that is ready."""
    try:
        with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(socket)), base_url="http://vehicle", timeout=2) as client:
            return bool(client.get(f"/v2/models/{family}/ready").is_success)
    except httpx2.HTTPError:
        return False
