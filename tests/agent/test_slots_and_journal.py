"""What a power cut, a full disk or a damaged file leaves behind: the old state or the new one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from client_agent.identity import Identity
from client_agent.journal import DurableFile, Failure, Journal, Progress, write_durably
from client_agent.slots import Mark, Record, SlotName, Slots
from client_agent.states import State
from model_registry.contract.content import Content
from model_registry.contract.errors import ContentMismatch, NotEnrolled
from model_registry.contract.messages import Assignment, BytesReceived, Hop, Instruction


def record(content: Content, counter: int = 1) -> Record:
    return Record(content.sha256, content.manifest.family, content.manifest.version, counter)


@pytest.fixture
def slots(tmp_path: Path) -> Slots:
    return Slots(tmp_path)


def install(slots: Slots, content: Content, counter: int) -> SlotName:
    slot = slots.store(record(content, counter), content.data)
    slots.activate(slot)
    slots.mark_good(slot)
    return slot


def test_a_new_vehicle_has_nothing(slots: Slots) -> None:
    assert slots.index.running is None
    assert slots.free_slot() is SlotName.A


def test_updates_take_turns_and_the_previous_model_stays(slots: Slots, v1: Content, v2: Content) -> None:
    assert install(slots, v1, 1) is SlotName.A
    assert install(slots, v2, 2) is SlotName.B
    assert slots.load(SlotName.B).sha256 == v2.sha256
    assert slots.load(SlotName.A).sha256 == v1.sha256
    assert slots.index.counter_floor == 2


def test_a_content_that_was_not_signed_is_not_stored(slots: Slots, v1: Content, v2: Content) -> None:
    install(slots, v1, 1)
    with pytest.raises(ContentMismatch):
        slots.store(record(v2), v1.data)
    assert slots.index.find(v2.sha256) is None


def test_storing_never_touches_the_model_that_answers(slots: Slots, v1: Content, v2: Content) -> None:
    slot = install(slots, v1, 1)
    before = slots.path(slot).read_bytes(), slots.index.running
    slots.store(record(v2, 2), v2.data)
    assert (slots.path(slot).read_bytes(), slots.index.running) == before


def test_the_floor_rises_only_with_proof(slots: Slots, v1: Content, v2: Content) -> None:
    install(slots, v1, 5)
    slots.activate(slots.store(record(v2, 9), v2.data))
    assert slots.index.counter_floor == 5


def test_giving_up_returns_to_the_proven_model(slots: Slots, v1: Content, v2: Content) -> None:
    install(slots, v1, 1)
    new = slots.store(record(v2, 2), v2.data)
    slots.activate(new)
    assert slots.give_up(new) is SlotName.A
    assert slots.index.running is not None
    assert slots.index.running.version == "1.0.0"
    assert slots.index.b is not None
    assert slots.index.b.mark is Mark.BAD


def test_giving_up_never_turns_to_a_model_that_was_not_proven(slots: Slots, v1: Content) -> None:
    slot = slots.store(record(v1), v1.data)
    slots.activate(slot)
    assert slots.give_up(slot) is None
    assert slots.index.running is None


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_content_is_noticed_before_it_is_parsed(slots: Slots, v1: Content, damage: str) -> None:
    slot = install(slots, v1, 1)
    path = slots.path(slot)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(data if damage == "flip" else data[:-1])
    with pytest.raises(ContentMismatch):
        slots.load(slot)


class PowerCut(BaseException):
    """Nobody catches this."""


@pytest.mark.parametrize("survives", range(8))
def test_a_power_cut_at_any_write_of_an_install_leaves_the_old_or_the_new_model(
    tmp_path: Path, v1: Content, v2: Content, monkeypatch: pytest.MonkeyPatch, survives: int
) -> None:
    slots = Slots(tmp_path)
    install(slots, v1, 1)
    renames = iter(range(survives))

    def rename(self: Path, target: Path) -> Path:
        if next(renames, None) is None:
            raise PowerCut
        os.replace(self, target)  # noqa: PTH105 - this is Path.replace
        return target

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", rename)
        try:
            install(slots, v2, 2)
        except PowerCut:
            assert survives < 5
    index = Slots(tmp_path).index
    assert index.active is not None
    assert slots.load(index.active).sha256 in (v1.sha256, v2.sha256)
    assert index.counter_floor in (1, 2)
    install(slots, v2, 2)
    assert slots.index.running is not None
    assert slots.index.running.sha256 == v2.sha256


def test_a_failed_write_keeps_the_old_file_and_leaves_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_durably(path, b"old")
    (tmp_path / ".state.json.new").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_durably(path, b"new")
    assert path.read_bytes() == b"old"


def test_a_symbolic_link_planted_as_the_temporary_file_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (tmp_path / ".state.json.new").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic"):
        write_durably(tmp_path / "state.json", b"new")
    assert victim.read_bytes() == b"mine"


PROGRESS = Progress(
    state=State.DOWNLOADING_DELTA,
    instruction=Instruction(30.0, Assignment("d", "models/s/1.0.0.dfm", "a" * 64)),
    etag='"e"',
    assignment=Assignment("d", "models/s/1.0.0.dfm", "a" * 64, (Hop("deltas/s/x.dfd", "models/s/1.0.0.dfm"),)),
    received=BytesReceived(1, 2, 3),
    failure=Failure("unreachable", "silence"),
    attempts=2,
    silences=1,
    restarts=1,
    finished="c",
)


def test_the_journal_remembers_everything(tmp_path: Path) -> None:
    Journal(tmp_path / "journal.json").write(PROGRESS)
    assert Journal(tmp_path / "journal.json").read() == PROGRESS


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"state": "idle"}', b'{"state": "flying"}', b"\x00" * 100, b"[" * 100_000]
)
def test_a_damaged_journal_counts_as_absent(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "journal.json").write_bytes(data)
    assert Journal(tmp_path / "journal.json").read() == Progress()


def test_a_durable_file_reads_what_was_written(tmp_path: Path) -> None:
    file: DurableFile[int] = DurableFile(tmp_path / "n", int, 0)
    assert file.read() == 0
    file.write(7)
    assert json.loads((tmp_path / "n").read_text()) == file.read() == 7


def test_the_vehicles_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    first = Identity.create(tmp_path)
    assert (tmp_path / "vehicle-key.pem").stat().st_mode & 0o777 == 0o600
    assert Identity.create(tmp_path).public_key == Identity.load(tmp_path).public_key == first.public_key


def test_a_sequence_never_repeats_after_a_restart(tmp_path: Path) -> None:
    Identity.create(tmp_path)
    numbers = [Identity.load(tmp_path).next_sequence() for _ in range(5)]
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("key", [None, b"", b"not a key"])
def test_without_a_key_the_remedy_is_named(tmp_path: Path, key: bytes | None) -> None:
    if key is not None:
        (tmp_path / "vehicle-key.pem").write_bytes(key)
    with pytest.raises(NotEnrolled, match="deltafleet-agent enroll"):
        Identity.load(tmp_path)
