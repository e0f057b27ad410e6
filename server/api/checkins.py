"""What an API process remembers of vehicles, so that a check-in with nothing new reads no database.

An entry is dropped when the vehicle's revision grows; each process looks for that about once a second, so an instruction
reaches a vehicle at most that much late. What every check-in says anew (when, how many inferences) is kept here and
written in batches; it is lost when the process is killed, and told again by the next check-in.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from securesystemslib.signer import Key

from model_registry.contract.messages import Installed, Instruction
from model_registry.trust.keys import vehicle_key
from server.database import Database
from server.repositories import fleet
from server.repositories.fleet import Seen
from server.services import deployments
from server.services.planning import DEFAULT_BOUNDS, Bounds
from server.tables import VehicleState

log = logging.getLogger(__name__)
REMEMBERED = 200_000


@dataclass(slots=True)
class Entry:
    """One vehicle's last known state. ``key`` None: there is no such vehicle, which is worth remembering too."""

    key: Key | None
    state: VehicleState
    installed_sha256: str | None
    sequence: int
    body: bytes
    etag: str


class CheckIns:
    """A bounded memory of vehicles. Safe to use from several threads."""

    def __init__(
        self,
        database: Database,
        *,
        poll_interval_s: float,
        bounds: Bounds = DEFAULT_BOUNDS,
        remembered: int = REMEMBERED,
    ) -> None:
        self._database = database
        self._bounds = bounds
        self._poll_interval_s = poll_interval_s
        self._remembered = remembered
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._lock = threading.Lock()
        self._seen = -1

    def get(self, vehicle_id: str) -> Entry | None:
        """What is remembered; None: look it up with ``load``."""
        with self._lock:
            entry = self._entries.get(vehicle_id)
            if entry is not None:
                self._entries.move_to_end(vehicle_id)
            return entry

    def load(self, vehicle_id: str) -> Entry:
        """Read the vehicle and what it is asked to do, and remember it."""
        with self._lock:
            seen = self._seen
        entry = self._read(vehicle_id)
        with self._lock:
            # A change that was noticed while this was read may not be in it: use it now, and read again next time.
            if seen == self._seen:
                self._entries[vehicle_id] = entry
                self._entries.move_to_end(vehicle_id)
            while len(self._entries) > self._remembered:
                self._entries.popitem(last=False)
        return entry

    def _read(self, vehicle_id: str) -> Entry:
        with self._database.reading() as session:
            vehicle = fleet.vehicle(session, vehicle_id)
            if vehicle is None:
                return Entry(None, VehicleState.REJECTED, None, -1, b"", "")
            accepted = vehicle.state == VehicleState.ACCEPTED
            assignment = deployments.assignment(session, vehicle, self._bounds) if accepted else None
        body = Instruction(self._poll_interval_s, assignment).to_bytes()
        return Entry(
            key=vehicle_key(vehicle.public_key),
            state=VehicleState(vehicle.state),
            installed_sha256=vehicle.installed_sha256,
            sequence=vehicle.installed_sequence,
            body=body,
            etag=f'"{hashlib.sha256(body).hexdigest()[:16]}"',
        )

    def note_installed(self, vehicle_id: str, installed: Installed | None, sequence: int) -> Entry:
        """Write down what a vehicle runs now, and read its instruction anew."""
        with self._database.writing() as session:
            deployments.note_installed(session, vehicle_id, installed, sequence)
        return self.load(vehicle_id)

    def forget(self, vehicle_id: str) -> None:
        """This process has just changed the vehicle itself."""
        with self._lock:
            self._entries.pop(vehicle_id, None)

    def poll(self) -> None:
        """Drop what other processes have changed since the last look."""
        with self._database.reading() as session:
            revision = fleet.revision(session)
            changed = fleet.changed_since(session, self._seen) if revision != self._seen else ()
        with self._lock:
            self._seen = revision
            for vehicle_id in changed:
                self._entries.pop(vehicle_id, None)


class PresenceBuffer:
    """The latest of every vehicle, until it is flushed. Bounded: what does not fit is counted and dropped."""

    def __init__(self, save: Callable[[list[Seen]], None], *, capacity: int) -> None:
        self._save = save
        self._capacity = capacity
        self._rows: dict[str, Seen] = {}
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self.dropped = 0

    def note(self, seen: Seen) -> None:
        with self._lock:
            known = self._rows.get(seen.vehicle_id)
            if known is None and len(self._rows) >= self._capacity:
                self.dropped += 1
            elif known is None or known.sequence < seen.sequence:
                self._rows[seen.vehicle_id] = seen

    def flush(self) -> None:
        """Return when everything noted before is written. What cannot be written now stays for the next time."""
        # One at a time: the last flush of a process must not pass by a batch that a timer's flush is still writing.
        with self._writing:
            rows = self._taken()
            try:
                if rows:
                    self._save(rows)
            except Exception:
                for row in rows:
                    self.note(row)
                raise

    def _taken(self) -> list[Seen]:
        with self._lock:
            rows, self._rows = self._rows, {}
        return list(rows.values())


def save_presences(database: Database) -> Callable[[list[Seen]], None]:
    """Writes a batch in one transaction."""

    def save(rows: list[Seen]) -> None:
        with database.writing() as session:
            fleet.save_presences(session, rows)

    return save
