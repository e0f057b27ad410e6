"""The linear layers of an ONNX graph, seen as matrices: what multiplies what, and with which bias.

Convolutions (grouped and depthwise ones too), Gemm and MatMul with a constant weight are all ``outputs = W x + b`` at many
positions. A layer's *rows* are (groups, outputs of a group, inputs of an output); its *columns* are what the rows multiply:
patches of the input, (groups, inputs of an output, positions).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, ValueInfoProto, helper

from model_registry.models.graphs import Weights

Floats = npt.NDArray[np.floating[Any]]
# Told how many positions there are, it says which are wanted; ``slice`` wants them all.
Choice = Callable[[int], npt.NDArray[np.intp] | slice]


@dataclass(frozen=True, slots=True)
class LinearLayer:
    """One layer: names of its weight, bias (None without one) and input, and how the weight lies in memory.

    ``transposed``: the weight is (inputs, outputs). The rest is a convolution's geometry; ``kernel`` is empty for others.
    """

    weight: str
    bias: str | None
    input: str
    transposed: bool = False
    groups: int = 1
    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()

    def rows(self, weight: Floats) -> Floats:
        """The weight as (groups, outputs of a group, inputs of an output)."""
        flat = weight.T if self.transposed else weight.reshape(weight.shape[0], -1)
        return np.asarray(flat.reshape(self.groups, flat.shape[0] // self.groups, -1))

    def weight_of(self, rows: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """The inverse of ``rows``, contiguous."""
        flat = rows.reshape(-1, rows.shape[-1])
        return np.ascontiguousarray(flat.T if self.transposed else flat.reshape(shape))

    def columns(self, activation: Floats, choose: Choice = slice) -> Floats:
        """What the rows multiply for one request: (groups, inputs of an output, positions); ``choose`` says at which."""
        if not self.kernel:
            flat = activation.reshape(-1, activation.shape[-1])
            return np.asarray(flat[choose(len(flat))].T[np.newaxis])
        patches = _patches(activation[0], self, choose)
        return np.asarray(patches.reshape(self.groups, -1, patches.shape[-1]))


def linear_layers(graph: bytes, weights: Weights) -> list[LinearLayer]:
    """Every linear layer whose weight is used once, in the graph's order; what is not understood is left out.

    A bias that another node uses as well is not one of the layer's: it cannot make up for the errors of two.
    """
    model = ModelProto.FromString(graph)
    uses = Counter(name for node in model.graph.node for name in node.input)
    found = (_layer(node, weights) for node in model.graph.node)
    own = (layer for layer in found if layer is not None and uses[layer.weight] == 1)
    return [layer if uses[layer.bias or ""] <= 1 else replace(layer, bias=None) for layer in own]


def with_inputs_shown(graph: bytes, layers: list[LinearLayer]) -> tuple[bytes, tuple[str, ...]]:
    """The graph with the layers' inputs as further outputs, and the names of all its outputs."""
    model = ModelProto.FromString(graph)
    present = {value.name for value in (*model.graph.output, *model.graph.input)}
    wanted = [name for name in dict.fromkeys(layer.input for layer in layers) if name not in present]
    model.graph.output.extend(ValueInfoProto(name=name) for name in wanted)
    return bytes(model.SerializeToString(deterministic=True)), tuple(value.name for value in model.graph.output)


def _layer(node: NodeProto, weights: Weights) -> LinearLayer | None:
    if len(node.input) < 2 or node.input[1] not in weights or node.input[0] in weights:
        return None
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    weight = weights[node.input[1]]
    bias = _bias(node, attributes, weights)
    if node.op_type == "Conv" and weight.ndim == 4 and attributes.get("auto_pad", b"NOTSET") == b"NOTSET":
        return _convolution(node, bias, weight, attributes)
    if node.op_type == "Gemm" and not attributes.get("transA") and attributes.get("alpha", 1.0) == 1.0:
        bias = bias if attributes.get("beta", 1.0) == 1.0 else None
        return LinearLayer(node.input[1], bias, node.input[0], transposed=not attributes.get("transB", 0))
    if node.op_type == "MatMul" and weight.ndim == 2:
        return LinearLayer(node.input[1], None, node.input[0], transposed=True)
    return None


def _bias(node: NodeProto, attributes: dict[str, Any], weights: Weights) -> str | None:
    """The constant that has a value for every output; a Gemm may add one number to all of them."""
    if len(node.input) < 3 or node.input[2] not in weights:
        return None
    outputs = weights[node.input[1]].shape[1 if node.op_type == "Gemm" and not attributes.get("transB", 0) else 0]
    return node.input[2] if weights[node.input[2]].size == outputs else None


def _convolution(node: NodeProto, bias: str | None, weight: Floats, attributes: dict[str, Any]) -> LinearLayer:
    return LinearLayer(
        node.input[1],
        bias,
        node.input[0],
        groups=int(attributes.get("group", 1)),
        kernel=tuple(weight.shape[2:]),
        strides=tuple(attributes.get("strides", (1, 1))),
        dilations=tuple(attributes.get("dilations", (1, 1))),
        pads=tuple(attributes.get("pads", (0, 0, 0, 0))),
    )


def _patches(picture: Floats, layer: LinearLayer, choose: Choice) -> Floats:
    """(channels, height, width) to (channels x kernel positions, output positions), in the order of a weight's values."""
    top, left, bottom, right = layer.pads
    padded = np.pad(picture, ((0, 0), (top, bottom), (left, right)))
    spans = [(k - 1) * d + 1 for k, d in zip(layer.kernel, layer.dilations, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=(1, 2))
    (down, across), (dy, dx) = layer.strides, layer.dilations
    strided = windows[:, ::down, ::across, ::dy, ::dx]
    height, width = strided.shape[1:3]
    rows, places = np.divmod(np.arange(height * width)[choose(height * width)], width)
    taken = strided[:, rows, places].transpose(0, 2, 3, 1)
    return np.asarray(taken.reshape(-1, rows.size)) if len(taken) else np.zeros((0, rows.size))
