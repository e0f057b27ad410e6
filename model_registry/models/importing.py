"""The door for trained networks: a file becomes a checkpoint, or a one-line refusal.

The kind of a file is what its bytes say, checked against what the user said; a pickle is never opened in this process.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from enum import StrEnum
from pathlib import Path

from model_registry.architectures import recognise
from model_registry.contract.errors import UnsupportedArtifact
from model_registry.contract.preprocessing import Preprocessing
from model_registry.models import graphs
from model_registry.models.checkpoints import MAX_CHECKPOINT_BYTES, Checkpoint, Description, Weights
from model_registry.models.deep_compression import read_deep_compression
from model_registry.models.files import read_file
from model_registry.models.safetensors_file import looks_like_safetensors, read_safetensors
from model_registry.models.torch_checkpoint import read_torch_checkpoint


class Format(StrEnum):
    """What ``import --format`` takes."""

    DEEP_COMPRESSION = "deep-compression"
    TORCH = "torch"
    ONNX = "onnx"


def import_file(path: Path, kind: Format, *, preprocessing: Preprocessing | None = None) -> Checkpoint:
    """Read a foreign file. Raises ArtifactRefused or ManifestRefused."""
    data = read_file(path, max_bytes=MAX_CHECKPOINT_BYTES)
    match kind:
        case Format.DEEP_COMPRESSION:
            weights, description = read_deep_compression(data)
        case Format.TORCH:
            _refuse_other_kind(data)
            weights, description = read_torch_checkpoint(path)
            description = _recognised(weights, description)
        case Format.ONNX:
            weights, description = _read_onnx(data, preprocessing)
    description = replace(description, preprocessing=preprocessing or description.preprocessing)
    return Checkpoint(weights, description, hashlib.sha256(data).hexdigest())


def read_checkpoint(path: Path, *, preprocessing: Preprocessing | None = None) -> Checkpoint:
    """Read a safetensors or ONNX file, told apart by its bytes. Raises ArtifactRefused or ManifestRefused."""
    data = read_file(path, max_bytes=MAX_CHECKPOINT_BYTES)
    if data[:2] == b"PK" or data[:1] == b"\x80":
        raise UnsupportedArtifact(
            f"{path.name} is a pickle or a zip", remedy="import it first: deltafleet import --format torch"
        )
    if looks_like_safetensors(data):
        weights, description = read_safetensors(data)
    else:
        weights, description = _read_onnx(data, preprocessing)
    description = replace(description, preprocessing=preprocessing or description.preprocessing)
    return Checkpoint(weights, description, hashlib.sha256(data).hexdigest())


def _read_onnx(data: bytes, preprocessing: Preprocessing | None) -> tuple[Weights, Description]:
    stripped = graphs.strip_model(data, preprocessing.size if preprocessing else None)
    said = Description() if stripped.note is None else Description.from_text(stripped.note)
    return stripped.weights, replace(said, architecture="onnx", graph=stripped.graph)


def _recognised(weights: Weights, description: Description) -> Description:
    found = recognise({name: value.shape for name, value in weights.items()})
    return replace(description, architecture=found.name if found else None)


def _refuse_other_kind(data: bytes) -> None:
    if looks_like_safetensors(data):
        raise UnsupportedArtifact("this is a safetensors file, not a torch checkpoint", remedy="compress it as it is")
