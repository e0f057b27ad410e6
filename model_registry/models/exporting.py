"""From a content back to files that other tools read: safetensors, and ONNX with its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from model_registry.contract.content import Content
from model_registry.models.checkpoints import Description
from model_registry.models.graphs import fill_graph
from model_registry.models.safetensors_file import write_safetensors


def to_onnx(content: Content) -> bytes:
    """A self-contained ONNX model, described in its metadata. Raises ModelUnusable when weights are missing."""
    return fill_graph(content.graph, content.weights(), _description(content, graph=None).to_text())


def to_safetensors(content: Content) -> bytes:
    """Float32 weights with their description, for a foreign network with the graph."""
    graph = content.graph if content.manifest.architecture == "onnx" else None
    return write_safetensors(content.weights(), _description(content, graph))


def _description(content: Content, graph: bytes | None) -> Description:
    manifest = content.manifest
    return Description(manifest.architecture, manifest.preprocessing, manifest.labels, graph)


EXPORTS: Mapping[str, Callable[[Content], bytes]] = MappingProxyType({".onnx": to_onnx, ".safetensors": to_safetensors})
