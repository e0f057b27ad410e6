"""Strict reading and deterministic writing of safetensors files.

The library accepts headers that this reader refuses: above 1 MiB, above 10,000 tensors, names twice or with odd characters,
types that are no weights. Nothing is allocated before the header is checked against the file's size.
"""

from __future__ import annotations

import math
import re
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from model_registry.contract.canonical import canonical_json, parse_json_object
from model_registry.contract.errors import LimitExceeded, MalformedArtifact, MessageRefused, UnsupportedArtifact
from model_registry.contract.fields import Fields
from model_registry.contract.limits import DEFAULT_LIMITS, MIB
from model_registry.models.checkpoints import Description, Weights

MAX_HEADER_BYTES = 1 * MIB
DESCRIPTION_KEY = "deltafleet"
WEIGHT_NAME = re.compile(r"[A-Za-z0-9_.-]{1,256}")
_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


def read_safetensors(data: bytes) -> tuple[Weights, Description]:
    """Weights as float32 in the file's order, and their description. Raises ArtifactRefused or ManifestRefused."""
    header, body = _split(data)
    metadata = Fields(header.pop("__metadata__", {}), MalformedArtifact, "__metadata__")
    if len(header) > DEFAULT_LIMITS.max_tensors:
        raise LimitExceeded(f"{len(header)} tensors are above the limit of {DEFAULT_LIMITS.max_tensors}")
    spans = sorted((_span(name, value) for name, value in header.items()), key=lambda span: (span[1], span[2]))
    end = 0
    for name, start, stop, _, _ in spans:
        if start != end:
            raise MalformedArtifact(f"tensor {name!r} overlaps another or leaves a gap")
        end = stop
    if end != len(body):
        raise MalformedArtifact(f"the tensors need {end} bytes, the file has {len(body)}: it is truncated or damaged")
    weights = {name: _values(body[start:stop], dtype).reshape(shape) for name, start, stop, dtype, shape in spans}
    text = metadata.optional_text(DESCRIPTION_KEY, max_length=MAX_HEADER_BYTES)
    return weights, Description() if text is None else Description.from_text(text)


def write_safetensors(weights: Weights, description: Description) -> bytes:
    """One byte string for the same weights in the same order. Raises LimitExceeded for a header that is not read back."""
    header: dict[str, Any] = {"__metadata__": {DESCRIPTION_KEY: description.to_text()}}
    at = 0
    for name, value in weights.items():
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [at, at + 4 * value.size]}
        at += 4 * value.size
    text = canonical_json(header)
    # The format aligns its data to 8 bytes with spaces.
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise LimitExceeded(
            f"graph, labels and names need {len(text)} bytes of header, the limit is {MAX_HEADER_BYTES}",
            remedy="compress the ONNX file itself",
        )
    values = (np.ascontiguousarray(value, "<f4").tobytes() for value in weights.values())
    return b"".join([struct.pack("<Q", len(text)), text, *values])


def looks_like_safetensors(data: bytes) -> bool:
    """The first bytes: a plausible length and an opening brace."""
    return len(data) > 9 and data[8:9] == b"{"


def _split(data: bytes) -> tuple[dict[str, Any], memoryview]:
    if len(data) < 8:
        raise MalformedArtifact("not a safetensors file: it is too short")
    size = struct.unpack("<Q", data[:8])[0]
    if size > MAX_HEADER_BYTES:
        raise LimitExceeded(f"the header claims {size} bytes, the limit is {MAX_HEADER_BYTES}")
    if size > len(data) - 8:
        raise MalformedArtifact("not a safetensors file, or truncated: its header does not fit")
    try:
        header = parse_json_object(data[8 : 8 + size], max_bytes=MAX_HEADER_BYTES)
    except MessageRefused as exc:
        raise MalformedArtifact(f"not a safetensors file: {exc.message}") from exc
    return header, memoryview(data)[8 + size :]


def _span(name: str, value: Any) -> tuple[str, int, int, str, tuple[int, ...]]:
    if not WEIGHT_NAME.fullmatch(name):
        raise UnsupportedArtifact(f"tensor name {name!r} is not allowed", remedy="use letters, digits, '_', '.' and '-'")
    fields = Fields(value, MalformedArtifact, name).only("dtype", "shape", "data_offsets")
    dtype = fields.text("dtype")
    if dtype not in _ITEM_BYTES:
        raise UnsupportedArtifact(
            f"tensor {name!r} is {dtype}, not a float", remedy=f"keep only {', '.join(_ITEM_BYTES)} tensors"
        )
    shape = fields.integers("shape", high=2**31, max_length=8)
    offsets = fields.integers("data_offsets", max_length=2)
    if len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * _ITEM_BYTES[dtype]:
        raise MalformedArtifact(f"tensor {name!r} has not the size that its shape says")
    return name, offsets[0], offsets[1], dtype, shape


def _values(data: memoryview, dtype: str) -> npt.NDArray[np.float32]:
    if dtype == "F32":
        return np.frombuffer(data, "<f4").astype(np.float32)
    if dtype == "F16":
        return np.frombuffer(data, "<f2").astype(np.float32)
    return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
