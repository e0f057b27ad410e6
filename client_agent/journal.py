"""Durable state: a small file that is, after a power cut at any moment, either the old one or the new one.

Temporary file beside it, fsync, rename over it, fsync of the directory. A file that cannot be read back counts as absent, so
that a damaged disk costs a repeated step and never a vehicle.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

from client_agent.states import State
from model_registry.contract.errors import MessageRefused, Refusal
from model_registry.contract.fields import Fields
from model_registry.contract.messages import Assignment, BytesReceived, Instruction

log = logging.getLogger(__name__)
T = TypeVar("T")
MAX_STATE_BYTES = 1024 * 1024


def write_durably(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace ``path`` by ``data`` for good. Raises OSError; then the old file stands."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make renames and removals inside ``directory`` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class DurableFile(Generic[T]):
    """One value in one JSON file. ``parse`` raises Refusal for what it does not accept."""

    def __init__(self, path: Path, parse: Callable[[Any], T], default: T) -> None:
        self._path = path
        self._parse = parse
        self._default = default

    def read(self) -> T:
        """The stored value; the default when there is none, or when it is damaged."""
        try:
            with self._path.open("rb") as file:
                data = file.read(MAX_STATE_BYTES)
        except FileNotFoundError:
            return self._default
        try:
            return self._parse(json.loads(data))
        except (ValueError, RecursionError, Refusal):
            log.warning("%s is damaged and counts as absent", self._path)
            return self._default

    def write(self, value: Any) -> None:
        """``value`` is plain JSON. Raises OSError; then the old value stands."""
        write_durably(self._path, json.dumps(value, sort_keys=True).encode())


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a deployment or a check-in did not succeed: a Refusal's code, and a sentence."""

    code: str
    detail: str

    @classmethod
    def of(cls, refusal: Refusal) -> Failure:
        return cls(refusal.code[:64], str(refusal)[:1024])


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the machine stands. Written before each state acts.

    ``instruction`` and ``etag`` are the registry's last answer. ``assignment`` is the deployment in hand, ``received`` its
    bytes, ``failure`` what went wrong last. ``attempts``: the deployment's interruptions by the network. ``silences``: those in
    a row, of a deployment or before one; they space the next check-in. ``restarts``: how often the agent started anew
    where the new model runs. ``finished``: the last deployment that was reported to its end.
    """

    state: State = State.IDLE
    instruction: Instruction | None = None
    etag: str | None = None
    assignment: Assignment | None = None
    received: BytesReceived = field(default_factory=BytesReceived)
    failure: Failure | None = None
    attempts: int = 0
    silences: int = 0
    restarts: int = 0
    finished: str | None = None

    @classmethod
    def from_json(cls, value: Any) -> Progress:
        """Raises MessageRefused or ValueError."""
        document = Fields(value, MessageRefused, "journal").only(*(f.name for f in fields(cls)))
        instruction = document.optional_object("instruction")
        assignment = document.optional_object("assignment")
        failure = document.optional_object("failure")
        received = document.object("received")
        return cls(
            state=State(document.text("state")),
            instruction=None if instruction is None else Instruction.from_bytes(json.dumps(instruction.plain()).encode()),
            etag=document.optional_text("etag", max_length=256),
            assignment=None if assignment is None else Assignment.from_json(assignment),
            received=BytesReceived(received.integer("metadata"), received.integer("delta"), received.integer("full")),
            failure=None if failure is None else Failure(failure.text("code"), failure.text("detail")),
            attempts=document.integer("attempts"),
            silences=document.integer("silences"),
            restarts=document.integer("restarts"),
            finished=document.optional_text("finished"),
        )


class Journal:
    """The machine's memory, in one durable file."""

    def __init__(self, path: Path) -> None:
        self._file: DurableFile[Progress] = DurableFile(path, Progress.from_json, Progress())

    def read(self) -> Progress:
        return self._file.read()

    def write(self, progress: Progress) -> None:
        """Raises OSError; then the former progress stands."""
        self._file.write(asdict(progress))
