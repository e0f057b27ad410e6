"""Where a training stands, on disk: one file that is there whole or not at all, believed only after its digest.

    "DFT1" | 32 bytes SHA-256 of the rest | u32 length, JSON | safetensors

The JSON names what the training is *of* (digests of network, pictures and settings) and how far it is; the tensors are all
that changes while training. There is no other state: the order of pictures and every random number follow from the seed and
the position. So a training that was killed goes on as if nothing had been, and nothing in the file is ever executed.
"""

from __future__ import annotations

import fcntl
import hashlib
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from model_registry.contract.canonical import canonical_json, parse_json_object
from model_registry.contract.errors import ArtifactRefused, ContentMismatch, MalformedArtifact, Refusal
from model_registry.contract.fields import SHA256, Fields
from model_registry.models.checkpoints import MAX_CHECKPOINT_BYTES, Description, Weights
from model_registry.models.files import read_file, write_file
from model_registry.models.safetensors_file import read_safetensors, write_safetensors

MAGIC = b"DFT1"
NAME, LOCK = "training.dft", "lock"
MAX_HEADER_BYTES = 64 * 1024
_PREFIX_BYTES = len(MAGIC) + 32


@dataclass(frozen=True, slots=True)
class Position:
    """``epoch`` epochs of stage ``stage`` are done, counted from 0."""

    stage: int
    epoch: int


@dataclass(frozen=True, slots=True, eq=False)
class TrainingState:
    """A position, and everything that training changed until there: parameters, masks or indices, moments."""

    position: Position
    tensors: Weights


class CheckpointFolder:
    """The one checkpoint in a folder, for the training that ``identity`` (digests by what they are of) describes."""

    def __init__(self, folder: Path, identity: Mapping[str, str]) -> None:
        self._path = folder / NAME
        self._identity = dict(identity)

    def load(self) -> TrainingState | None:
        """The last checkpoint, or None before the first. Raises ArtifactRefused when it is damaged, Refusal
        when it is of another training."""
        if not self._path.exists():
            return None
        try:
            identity, state = _read(read_file(self._path, max_bytes=2 * MAX_CHECKPOINT_BYTES))
        except ArtifactRefused as exc:
            remedy = f"remove {self._path} to train from the beginning"
            raise type(exc)(f"the checkpoint {self._path} cannot be used: {exc.message}", remedy=remedy) from exc
        differs = [name for name, digest in self._identity.items() if identity.get(name) != digest]
        if differs:
            raise Refusal(
                f"{self._path} is the checkpoint of another training: its {' and '.join(differs)} differ",
                remedy="give another folder with --checkpoints, or remove this one to train from the beginning",
            )
        return state

    def save(self, state: TrainingState) -> None:
        """Replace the checkpoint. Raises Refusal when the place is full; the old one stands then."""
        write_file(self._path, _to_bytes(self._identity, state))


@contextmanager
def training_in(folder: Path, identity: Mapping[str, str]) -> Iterator[CheckpointFolder]:
    """The folder, made if need be, for this process alone. Raises Refusal."""
    with _locked(folder):
        # What a killed process was writing; nobody else writes here now.
        for left in folder.glob(f".{NAME}.*"):
            left.unlink(missing_ok=True)
        yield CheckpointFolder(folder, identity)


def _locked(folder: Path) -> BinaryIO:
    """An open file whose lock goes with the process, however it ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("wb")
    except OSError as exc:
        raise Refusal(
            f"checkpoints cannot be kept in {folder}: {exc.strerror}", remedy="name a folder with --checkpoints"
        ) from exc
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        lock.close()
        remedy = "wait for it, or give another folder with --checkpoints"
        raise Refusal(f"another training is at work in {folder}", remedy=remedy) from exc
    return lock


def _to_bytes(identity: Mapping[str, str], state: TrainingState) -> bytes:
    at = state.position
    header = canonical_json({"identity": identity, "position": {"stage": at.stage, "epoch": at.epoch}})
    body = struct.pack("<I", len(header)) + header + write_safetensors(state.tensors, Description())
    return MAGIC + hashlib.sha256(body).digest() + body


def _read(data: bytes) -> tuple[dict[str, Any], TrainingState]:
    body = memoryview(data)[_PREFIX_BYTES:]
    if data[: len(MAGIC)] != MAGIC or len(body) < 4:
        raise MalformedArtifact("it is no training checkpoint")
    if hashlib.sha256(body).digest() != data[len(MAGIC) : _PREFIX_BYTES]:
        raise ContentMismatch("its digest is not that of its bytes; it is damaged")
    size = struct.unpack("<I", body[:4])[0]
    if size > min(MAX_HEADER_BYTES, len(body) - 4):
        raise MalformedArtifact(f"its header claims {size} bytes")
    header = Fields(_json(bytes(body[4 : 4 + size])), MalformedArtifact, "checkpoint").only("identity", "position")
    at = header.object("position").only("stage", "epoch")
    position = Position(at.integer("stage"), at.integer("epoch"))
    identity = header.object("identity")
    digests = {name: identity.text(name, pattern=SHA256) for name in identity.plain()}
    return digests, TrainingState(position, read_safetensors(bytes(body[4 + size :]))[0])


def _json(data: bytes) -> dict[str, Any]:
    try:
        return parse_json_object(data, max_bytes=MAX_HEADER_BYTES)
    except Refusal as exc:
        raise MalformedArtifact(f"its header is unreadable: {exc.message}") from exc
