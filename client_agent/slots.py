"""Two slots, A and B, each holding one content; one small index file says which slot answers.

The index is the only commit point: a content is written and synced before the index names it, and the slot that answers is
never written to. A power cut at any write leaves the old or the new model active. The index also holds the release counter's
floor: the highest counter that has proven itself here, which no metadata cache, wiped or not, can lower.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from client_agent.journal import DurableFile, write_durably
from model_registry.contract.content import Content
from model_registry.contract.errors import ContentMismatch, MessageRefused
from model_registry.contract.fields import NAME, SEMVER, SHA256, Fields
from model_registry.contract.limits import DEFAULT_LIMITS
from model_registry.contract.messages import Installed


class SlotName(StrEnum):
    """The two places."""

    A = "a"
    B = "b"

    @property
    def other(self) -> SlotName:
        return SlotName.B if self is SlotName.A else SlotName.A


class Mark(StrEnum):
    """What is known of a slot's content: written, answering on probation, proven, or found bad."""

    WRITTEN = "written"
    PROBATION = "probation"
    GOOD = "good"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Record:
    """The content of a slot: its digest, the release it is, its signed counter."""

    sha256: str
    family: str
    version: str
    release_counter: int
    mark: Mark = Mark.WRITTEN

    @property
    def installed(self) -> Installed:
        return Installed(self.version, self.sha256, self.release_counter)


@dataclass(frozen=True, slots=True)
class Index:
    """What both slots hold, which one answers, and the counter below which nothing is installed any more."""

    a: Record | None = None
    b: Record | None = None
    active: SlotName | None = None
    counter_floor: int = 0

    def record(self, slot: SlotName) -> Record | None:
        return self.a if slot is SlotName.A else self.b

    def with_record(self, slot: SlotName, record: Record | None) -> Index:
        return replace(self, a=record) if slot is SlotName.A else replace(self, b=record)

    def marked(self, slot: SlotName, mark: Mark) -> Index:
        record = self.record(slot)
        return self.with_record(slot, replace(record, mark=mark) if record else None)

    def fallback(self, slot: SlotName) -> SlotName | None:
        """The slot that answers when ``slot`` shall not: the other one, if it has proven itself."""
        other = self.record(slot.other)
        return slot.other if other is not None and other.mark is Mark.GOOD else None

    @property
    def running(self) -> Record | None:
        """The record of the slot that answers."""
        return self.record(self.active) if self.active else None

    def find(self, sha256: str) -> SlotName | None:
        """The slot that holds a content."""
        return next((s for s in SlotName if (r := self.record(s)) is not None and r.sha256 == sha256), None)

    @classmethod
    def from_json(cls, value: Any) -> Index:
        """Raises MessageRefused or ValueError."""
        document = Fields(value, MessageRefused, "slots").only("a", "b", "active", "counter_floor")
        active = document.optional_text("active")
        return cls(
            a=_record(document.optional_object("a")),
            b=_record(document.optional_object("b")),
            active=SlotName(active) if active else None,
            counter_floor=document.integer("counter_floor"),
        )


class Slots:
    """The slots of one state directory. One process at a time may change them; any may read."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file: DurableFile[Index] = DurableFile(directory / "index.json", Index.from_json, Index())

    @property
    def index(self) -> Index:
        return self._file.read()

    def path(self, slot: SlotName) -> Path:
        """The file with the canonical bytes of a slot's content."""
        return self._directory / f"{slot}.content"

    def size_bytes(self, slot: SlotName) -> int:
        """Size of a slot's content; 0 when its file is gone, which whoever reads it will see."""
        try:
            return self.path(slot).stat().st_size
        except FileNotFoundError:
            return 0

    def free_slot(self) -> SlotName:
        """The slot that does not answer."""
        active = self.index.active
        return active.other if active else SlotName.A

    def store(self, record: Record, data: bytes) -> SlotName:
        """Write a content into the slot that does not answer. Raises ContentMismatch, and OSError when the disk is full."""
        if hashlib.sha256(data).hexdigest() != record.sha256:
            raise ContentMismatch("the rebuilt content is not the one that was signed")
        slot = self.free_slot()
        self._write(self.index.with_record(slot, None))
        write_durably(self.path(slot), data)
        self._write(self.index.with_record(slot, replace(record, mark=Mark.WRITTEN)))
        return slot

    def load(self, slot: SlotName) -> Content:
        """Read a slot back, its digest checked before anything is parsed. Raises ContentMismatch or ArtifactRefused."""
        record = self.index.record(slot)
        if record is None:
            raise ContentMismatch(f"slot {slot} holds no model")
        try:
            with self.path(slot).open("rb") as file:
                data = file.read(DEFAULT_LIMITS.max_content_bytes + 1)
        except FileNotFoundError as exc:
            raise ContentMismatch(f"the content of slot {slot} is gone") from exc
        if hashlib.sha256(data).hexdigest() != record.sha256:
            raise ContentMismatch(f"the content of slot {slot} is damaged")
        return Content.from_data(data)

    def activate(self, slot: SlotName) -> None:
        """Let a slot answer, on probation, from now on and after every restart. One atomic write; repeating it is harmless."""
        self._write(replace(self.index.marked(slot, Mark.PROBATION), active=slot))

    def mark_good(self, slot: SlotName) -> None:
        """The content has proven itself: the floor of the release counter rises to its own."""
        index = self.index.marked(slot, Mark.GOOD)
        record = index.record(slot)
        self._write(replace(index, counter_floor=max(index.counter_floor, record.release_counter if record else 0)))

    def give_up(self, slot: SlotName) -> SlotName | None:
        """Mark a slot bad and let its fallback answer; returns that. Raises OSError; then nothing has changed."""
        index = self.index
        self._write(replace(index.marked(slot, Mark.BAD), active=index.fallback(slot)))
        return index.fallback(slot)

    def _write(self, index: Index) -> None:
        self._file.write(asdict(index))


def _record(fields: Fields | None) -> Record | None:
    if fields is None:
        return None
    return Record(
        sha256=fields.text("sha256", pattern=SHA256),
        family=fields.text("family", pattern=NAME),
        version=fields.text("version", pattern=SEMVER),
        release_counter=fields.integer("release_counter"),
        mark=Mark(fields.text("mark")),
    )
