"""A network cut before its linear layers, so that many requests go through it together, one layer after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, ValueInfoProto, helper

from model_registry.contract.content import Content
from model_registry.contract.manifest import InputSpec, Manifest
from model_registry.contract.session import Session
from model_registry.models.graphs import Weights, fill_graph
from model_registry.models.linear_layers import LinearLayer

Array = npt.NDArray[Any]


class Walk:
    """Requests of the same shapes on their way through ``graph``; only what later nodes need is kept of each."""

    def __init__(self, graph: bytes, requests: Sequence[Mapping[str, Array]]) -> None:
        self._model = ModelProto.FromString(graph)
        self._nodes = list(self._model.graph.node)
        self._values: list[dict[str, Array]] = [dict(request) for request in requests]
        self._at = 0

    def to(self, layer: LinearLayer, weights: Weights) -> list[Array]:
        """Go on with these ``weights`` until ``layer`` is next, and tell its input of every request.

        Layers are asked for in the graph's order. Raises ModelUnusable.
        """
        stop = next(at for at, node in enumerate(self._nodes) if len(node.input) > 1 and node.input[1] == layer.weight)
        nodes, self._at = self._nodes[self._at : stop], max(stop, self._at)
        wanted = _used(self._nodes[stop:])
        if nodes:
            self._run(nodes, wanted, weights)
        self._values = [{name: value for name, value in values.items() if name in wanted} for values in self._values]
        return [values[layer.input] for values in self._values]

    def _run(self, nodes: Sequence[NodeProto], wanted: set[str], weights: Weights) -> None:
        made = {name for node in nodes for name in node.output}
        needed = sorted((_used(nodes) & self._values[0].keys()) - made)
        outputs = tuple(sorted(made & wanted))
        if not outputs:
            return
        session = self._session(nodes, needed, outputs, weights)
        for values in self._values:
            answers = session.run({name: values[name] for name in needed})
            values.update(zip(outputs, answers, strict=True))

    def _session(
        self, nodes: Sequence[NodeProto], needed: Sequence[str], outputs: tuple[str, ...], weights: Weights
    ) -> Session:
        """These nodes as a model of their own."""
        shown = [_described(name, self._values[0][name]) for name in needed]
        used = _used(nodes)
        constants = [tensor for tensor in self._model.graph.initializer if tensor.name in used]
        part = ModelProto()
        part.CopyFrom(self._model)
        part.graph.CopyFrom(
            helper.make_graph(list(nodes), "part", shown, [ValueInfoProto(name=name) for name in outputs], constants)
        )
        inputs = tuple(InputSpec(name, str(self._values[0][name].dtype), self._values[0][name].shape) for name in needed)
        graph = fill_graph(bytes(part.SerializeToString(deterministic=True)), weights)
        return Session(Content(Manifest("onnx", 0, inputs, outputs), graph, ()))


def _described(name: str, value: Array) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(value.dtype)), value.shape)


def _used(nodes: Iterable[NodeProto]) -> set[str]:
    """Names that nodes take, those taken inside their own graphs (of an If or a Loop) included."""
    return {name for node in nodes for name in _taken(node)}


def _taken(node: NodeProto) -> Iterator[str]:
    # An optional input that is left out has no name.
    yield from filter(None, node.input)
    for attribute in node.attribute:
        for graph in _graphs(attribute):
            yield from _used(graph.node)


def _graphs(attribute: AttributeProto) -> list[GraphProto]:
    return [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
