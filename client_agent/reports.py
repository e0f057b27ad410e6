"""What the vehicle has to say about its deployments, on disk until the registry has it.

A report tells the whole of its deployment so far, so a newer one replaces an older one that was not sent yet: the queue holds
one report a deployment, and the oldest deployments beyond ``MAX_QUEUED`` are forgotten. A report is signed when it is sent:
sequences then grow in the order in which the registry sees them.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

from client_agent.journal import DurableFile
from model_registry.contract.errors import MessageRefused, Refusal, Unreachable, Untrusted
from model_registry.contract.fields import Fields
from model_registry.contract.messages import VehicleReport

log = logging.getLogger(__name__)
MAX_QUEUED = 50


class Recipient(Protocol):
    """Where reports go."""

    def next_sequence(self) -> int: ...

    def send(self, report: VehicleReport) -> None: ...


class ReportQueue:
    """The durable outbound queue."""

    def __init__(self, path: Path, recipient: Recipient) -> None:
        self._file = _queue_file(path)
        self._recipient = recipient

    def __len__(self) -> int:
        return len(self._file.read())

    def add(self, report: VehicleReport) -> None:
        """Keep a report until it is sent. Raises OSError."""
        others = [r for r in self._file.read() if r.deployment_id != report.deployment_id]
        self._write([*others, report][-MAX_QUEUED:])

    def flush(self) -> None:
        """Send what waits, oldest first. Raises Unreachable or Untrusted, and the rest goes on waiting; OSError."""
        while queue := self._file.read():
            report = replace(queue[0], sequence=self._recipient.next_sequence())
            try:
                self._recipient.send(report)
            except (Unreachable, Untrusted):
                raise
            except Refusal as exc:
                # Sending the same again would be refused again; what follows must not wait behind it for ever.
                log.warning("the registry refused a report on %s: %s", report.deployment_id, exc)
            self._write(queue[1:])

    def try_flush(self) -> None:
        """Send what waits, if that works now. Raises OSError."""
        try:
            self.flush()
        except (Unreachable, Untrusted) as exc:
            log.info("%d reports wait: %s", len(self), exc)

    def _write(self, queue: list[VehicleReport]) -> None:
        self._file.write({"reports": [asdict(report) for report in queue]})


def waiting(path: Path) -> int:
    """How many reports a queue on disk holds."""
    return len(_queue_file(path).read())


def _queue_file(path: Path) -> DurableFile[list[VehicleReport]]:
    return DurableFile(path, _read_reports, [])


def _read_reports(value: Any) -> list[VehicleReport]:
    items = Fields(value, MessageRefused, "queue").only("reports").items("reports", max_length=MAX_QUEUED)
    return [VehicleReport.from_json(item) for item in items]
