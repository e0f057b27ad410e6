"""A trained network as it enters the registry: float32 weights, and what is known about them."""

from __future__ import annotations

import base64
import binascii
import csv
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model_registry.contract.canonical import canonical_json, parse_json_object
from model_registry.contract.errors import MalformedArtifact, MessageRefused
from model_registry.contract.fields import NAME, Fields
from model_registry.contract.limits import MIB
from model_registry.contract.preprocessing import Preprocessing

# AlexNet, the largest network known by name, has 244 MB.
MAX_CHECKPOINT_BYTES = 1024 * MIB
MAX_DESCRIPTION_BYTES = 1 * MIB
Weights = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Description:
    """What travels with weights in the metadata of a safetensors file.

    ``architecture``: a name of the registry's, or None where nobody said; ``graph``: an ONNX graph without weights.
    """

    architecture: str | None = None
    preprocessing: Preprocessing | None = None
    labels: tuple[str, ...] = ()
    graph: bytes | None = None

    def to_text(self) -> str:
        value: dict[str, Any] = {
            "architecture": self.architecture,
            "preprocessing": self.preprocessing.to_json() if self.preprocessing else None,
            "labels": list(self.labels),
            "graph": base64.b64encode(self.graph).decode() if self.graph is not None else None,
        }
        return canonical_json(value).decode()

    @classmethod
    def from_text(cls, text: str) -> Description:
        """Raises MalformedArtifact or ManifestRefused."""
        try:
            value = parse_json_object(text.encode(), max_bytes=MAX_DESCRIPTION_BYTES)
        except MessageRefused as exc:
            raise MalformedArtifact(f"the description of the weights is unreadable: {exc.message}") from exc
        fields = Fields(value, MalformedArtifact, "deltafleet").only("architecture", "preprocessing", "labels", "graph")
        preprocessing = fields.optional_object("preprocessing")
        graph = fields.optional_text("graph", max_length=MAX_DESCRIPTION_BYTES)
        return cls(
            architecture=fields.optional_text("architecture", pattern=NAME),
            preprocessing=Preprocessing.from_json(preprocessing.plain()) if preprocessing else None,
            labels=fields.texts("labels", max_length=100_000, max_item=256),
            graph=None if graph is None else _decoded(graph),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """Weights by name with their description; ``sha256`` is the digest of the file they were read from."""

    weights: Weights
    description: Description
    sha256: str

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: value.shape for name, value in self.weights.items()}


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise MalformedArtifact("the graph beside the weights is not base64") from exc


def read_labels(text: str) -> tuple[str, ...]:
    """Class names from CSV with the columns class_index and name, every class once. Raises MalformedArtifact."""
    rows = csv.DictReader(text.splitlines())
    if not {"class_index", "name"} <= set(rows.fieldnames or ()):
        raise MalformedArtifact(
            "the labels have no columns class_index and name", remedy="start the file with class_index,name"
        )
    try:
        pairs = sorted((int(row["class_index"]), str(row["name"])) for row in rows)
    except (TypeError, ValueError) as exc:
        raise MalformedArtifact("a class_index is not a number") from exc
    if not pairs or [index for index, _ in pairs] != list(range(len(pairs))):
        raise MalformedArtifact("the labels do not name every class from 0 on exactly once")
    return tuple(name for _, name in pairs)


def read_preprocessing(text: str) -> Preprocessing:
    """The form of ``--preprocess FILE.json``. Raises ManifestRefused or MalformedArtifact."""
    try:
        value = json.loads(text)
    except ValueError as exc:
        raise MalformedArtifact(f"the preprocessing is not JSON: {exc}") from exc
    return Preprocessing.from_json(value)
