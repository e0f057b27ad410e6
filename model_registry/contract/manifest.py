"""What an artifact says about the model inside it.

The manifest is part of a version's content, so its bytes are canonical and its digest is covered by the content's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from model_registry.contract.canonical import canonical_json, parse_json_object
from model_registry.contract.errors import ManifestRefused, MessageRefused
from model_registry.contract.fields import NAME, SEMVER, SHA256, Fields
from model_registry.contract.limits import DEFAULT_LIMITS
from model_registry.contract.preprocessing import Preprocessing

FORMAT = 1
DTYPES = ("float32", "float16", "uint8", "int32", "int64")
# A vehicle makes golden inputs of the declared shapes: 4,096 x 4,096 pixels of 3 channels fit, what eats its memory does not.
MAX_INPUT_VALUES = 2**26
# An artifact that was compressed and not yet published says so.
UNNAMED_FAMILY, UNNAMED_VERSION = "unnamed", "0.0.0"


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input of the graph; the shape is concrete, batch included."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GoldenVector:
    """What the model answers to the input made from ``seed`` (see ``golden``), in brief.

    ``indices`` and ``values``: the largest outputs by magnitude; ``mean`` and ``deviation``: over all outputs, so that an
    unlisted NaN shows; ``tolerance``: how far, in output units, any of these may be off on another engine.
    """

    seed: int
    indices: tuple[int, ...]
    values: tuple[float, ...]
    mean: float
    deviation: float
    tolerance: float


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where the weights come from: digest of the checkpoint, of the base content (if quantised against one), and how."""

    source_sha256: str | None = None
    base_sha256: str | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The description inside an artifact. ``architecture`` names an entry of the registry's architectures, or "onnx"."""

    architecture: str
    parameters: int
    inputs: tuple[InputSpec, ...]
    outputs: tuple[str, ...]
    preprocessing: Preprocessing | None = None
    labels: tuple[str, ...] = ()
    golden: tuple[GoldenVector, ...] = ()
    lineage: Lineage = field(default_factory=Lineage)
    family: str = UNNAMED_FAMILY
    version: str = UNNAMED_VERSION

    def named(self, family: str, version: str) -> Manifest:
        """The same model under the name it is released with. Raises ManifestRefused."""
        if not NAME.fullmatch(family):
            raise ManifestRefused(f"{family!r} is not a family name", remedy="use lower-case letters, digits, '.', '_', '-'")
        if not SEMVER.fullmatch(version):
            raise ManifestRefused(f"{version!r} is not a version", remedy="use MAJOR.MINOR.PATCH, for example 2.0.0")
        return replace(self, family=family, version=version)

    def to_bytes(self) -> bytes:
        return canonical_json(self.to_json())

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "family": self.family,
            "version": self.version,
            "architecture": self.architecture,
            "parameters": self.parameters,
            "inputs": [{"name": i.name, "dtype": i.dtype, "shape": list(i.shape)} for i in self.inputs],
            "outputs": list(self.outputs),
            "preprocessing": self.preprocessing.to_json() if self.preprocessing else None,
            "labels": list(self.labels),
            "golden": [
                {
                    "seed": g.seed,
                    "indices": list(g.indices),
                    "values": list(g.values),
                    "mean": g.mean,
                    "deviation": g.deviation,
                    "tolerance": g.tolerance,
                }
                for g in self.golden
            ],
            "lineage": {
                "source_sha256": self.lineage.source_sha256,
                "base_sha256": self.lineage.base_sha256,
                "recipe": dict(self.lineage.recipe),
            },
        }

    @classmethod
    def from_bytes(cls, data: bytes, *, max_bytes: int = DEFAULT_LIMITS.max_manifest_bytes) -> Manifest:
        """Read canonical manifest bytes strictly. Raises ManifestRefused."""
        try:
            value = parse_json_object(data, max_bytes=max_bytes)
        except MessageRefused as exc:
            raise ManifestRefused(f"the manifest is unreadable: {exc.message}") from exc
        manifest = cls._from_json(value)
        if manifest.to_bytes() != data:
            raise ManifestRefused("the manifest is not in canonical form")
        return manifest

    @classmethod
    def _from_json(cls, value: dict[str, Any]) -> Manifest:
        names = "format family version architecture parameters inputs outputs preprocessing labels golden lineage"
        fields = Fields(value, ManifestRefused, "manifest").only(*names.split())
        if fields.integer("format") != FORMAT:
            raise ManifestRefused(f"manifest format {value['format']} is not {FORMAT}", remedy="update this program")
        preprocessing = value.get("preprocessing")
        return cls(
            family=fields.text("family", pattern=NAME),
            version=fields.text("version", pattern=SEMVER, max_length=64),
            architecture=fields.text("architecture", pattern=NAME),
            parameters=fields.integer("parameters"),
            inputs=tuple(_input(f) for f in fields.objects("inputs", max_length=16)),
            outputs=fields.texts("outputs", max_length=64, max_item=256),
            preprocessing=None if preprocessing is None else Preprocessing.from_json(preprocessing),
            labels=fields.texts("labels", max_length=100_000, max_item=256),
            golden=tuple(_golden(f) for f in fields.objects("golden", max_length=16)),
            lineage=_lineage(fields.object("lineage")),
        )


def _input(fields: Fields) -> InputSpec:
    fields.only("name", "dtype", "shape")
    dtype = fields.text("dtype")
    if dtype not in DTYPES:
        raise ManifestRefused(f"input type {dtype!r} is not one of {', '.join(DTYPES)}")
    shape = fields.integers("shape", low=1, high=MAX_INPUT_VALUES, max_length=8)
    if math.prod(shape) > MAX_INPUT_VALUES:
        raise ManifestRefused(f"an input of shape {shape} has more than {MAX_INPUT_VALUES} values")
    return InputSpec(fields.text("name", max_length=256), dtype, shape)


def _golden(fields: Fields) -> GoldenVector:
    fields.only("seed", "indices", "values", "mean", "deviation", "tolerance")
    vector = GoldenVector(
        seed=fields.integer("seed", high=2**32 - 1),
        indices=fields.integers("indices", max_length=64),
        values=fields.numbers("values", max_length=64),
        mean=fields.number("mean"),
        deviation=fields.number("deviation"),
        tolerance=fields.number("tolerance"),
    )
    if len(vector.indices) != len(vector.values):
        raise ManifestRefused("a golden vector has as many indices as values")
    return vector


def _lineage(fields: Fields) -> Lineage:
    fields.only("source_sha256", "base_sha256", "recipe")
    return Lineage(
        source_sha256=fields.optional_text("source_sha256", pattern=SHA256),
        base_sha256=fields.optional_text("base_sha256", pattern=SHA256),
        recipe=fields.object("recipe").plain(),
    )
