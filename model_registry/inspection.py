"""What a file says about itself, as plain values for people and for scripts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from model_registry.contract import delta, full
from model_registry.contract.content import Content
from model_registry.contract.errors import ArtifactRefused, UnsupportedArtifact
from model_registry.contract.limits import DEFAULT_LIMITS
from model_registry.models.files import read_file


def read_full(path: Path) -> Content:
    """Decode a full artifact. Raises ArtifactRefused or ManifestRefused."""
    data = read_file(path, max_bytes=DEFAULT_LIMITS.max_artifact_bytes)
    with naming(path):
        return full.decode_full(data)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Say in a refusal which file it is about: a command may have read several."""
    try:
        yield
    except ArtifactRefused as exc:
        remedy = exc.remedy or "check that it is the right file, or build or download it again"
        raise type(exc)(f"{path}: {exc.message}", remedy=remedy) from exc


def describe(path: Path, *, base: Path | None = None) -> dict[str, Any]:
    """Describe a full artifact, a delta, or a safetensors file, told apart by its bytes.

    A delta alone knows only digests and sizes; with its ``base`` it is applied and described like a full artifact.
    Raises ArtifactRefused or ManifestRefused.
    """
    data = read_file(path, max_bytes=DEFAULT_LIMITS.max_artifact_bytes)
    if full.begins_full(data):
        with naming(path):
            return _artifact("full", len(data), full.decode_full(data))
    if delta.begins_delta(data):
        before = read_full(base) if base else None
        with naming(path):
            return _delta(data, before)
    # Only here, so that artifacts are described without the packages that checkpoints need.
    from model_registry.models.safetensors_file import looks_like_safetensors, read_safetensors  # noqa: PLC0415

    if not looks_like_safetensors(data):
        raise UnsupportedArtifact(f"{path.name} is neither a .dfm, a .dfd nor a safetensors file", remedy="check the file")
    weights, description = read_safetensors(data)
    return {
        "kind": "checkpoint",
        "family": None,
        "version": None,
        "content_sha256": None,
        "bytes": len(data),
        "architecture": description.architecture,
        "classes": len(description.labels) or None,
        "parameters": sum(value.size for value in weights.values()),
        "preprocessing": description.preprocessing.to_json() if description.preprocessing else None,
        "tensors": [
            {"name": name, "shape": list(value.shape), "encoding": "float32", "offsets": 0} for name, value in weights.items()
        ],
    }


def describe_content(content: Content) -> dict[str, Any]:
    """Everything that a version's manifest and tensors say in brief."""
    manifest = content.manifest
    return {
        "family": manifest.family,
        "version": manifest.version,
        "content_sha256": content.sha256,
        "content_bytes": len(content.data),
        "architecture": manifest.architecture,
        "classes": _classes(content),
        "parameters": manifest.parameters,
        "preprocessing": manifest.preprocessing.to_json() if manifest.preprocessing else None,
        "inputs": [{"name": i.name, "dtype": i.dtype, "shape": list(i.shape)} for i in manifest.inputs],
        "outputs": list(manifest.outputs),
        "golden_vectors": len(manifest.golden),
        "quantized_against": manifest.lineage.base_sha256,
        "recipe": dict(manifest.lineage.recipe),
        "tensors": [
            {"name": t.name, "shape": list(t.shape), "encoding": t.encoding.label, "offsets": len(t.offsets)}
            for t in content.tensors
        ],
    }


def _artifact(kind: str, size: int, content: Content) -> dict[str, Any]:
    return {"kind": kind, "bytes": size, **describe_content(content)}


def _delta(data: bytes, base: Content | None) -> dict[str, Any]:
    header = delta.read_delta_header(data)
    own = {"base_sha256": header.base_sha256, "codec": str(header.codec)}
    if base is not None:
        return _artifact("delta", len(data), delta.apply_delta(base, data, DEFAULT_LIMITS)) | own
    unknown = dict.fromkeys(("family", "version", "architecture", "classes", "parameters"))
    sizes = {"bytes": len(data), "content_sha256": header.content_sha256, "content_bytes": header.content_bytes}
    return {"kind": "delta", **own, **sizes, **unknown, "tensors": []}


def _classes(content: Content) -> int | None:
    """As the labels count them, or the graph's output where there are none."""
    if content.manifest.labels:
        return len(content.manifest.labels)
    from model_registry.models.graphs import output_classes  # noqa: PLC0415

    return output_classes(content.graph)
