"""Counts what one deployment costs in body bytes, retries and failed attempts included."""

from __future__ import annotations

from dataclasses import replace

from model_registry.contract.messages import BytesReceived


class Tally:
    """``received`` so far. The transport adds while it reads; the machine keeps the sum in its journal."""

    def __init__(self) -> None:
        self.received = BytesReceived()

    def add_metadata(self, size_bytes: int) -> None:
        self.received = replace(self.received, metadata=self.received.metadata + size_bytes)

    def add_delta(self, size_bytes: int) -> None:
        self.received = replace(self.received, delta=self.received.delta + size_bytes)

    def add_full(self, size_bytes: int) -> None:
        self.received = replace(self.received, full=self.received.full + size_bytes)
