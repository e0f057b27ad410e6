"""ONNX graphs without weights: built from an architecture, or cut out of an imported model, and filled again.

A weight stays in the graph by name, shape and type alone, declared as external data; ONNX Runtime takes the values from
``SessionOptions.add_external_initializers``. Rules:

1. The bytes of a graph are a function of the network alone: fixed opset, no producer, no comments, no time.
2. Inputs have concrete shapes, batch 1.
3. Names of weights are ``[A-Za-z0-9_.-]+``; a model that uses others is renamed.
4. A model that refers to files beside it is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from model_registry.architectures import INPUT, OUTPUT, Architecture, Convolution, Dropout, Layer, Linear, MaxPool, Plain
from model_registry.contract.errors import LimitExceeded, MalformedArtifact, ModelUnusable, UnsupportedArtifact
from model_registry.contract.limits import DEFAULT_LIMITS
from model_registry.contract.manifest import DTYPES, InputSpec

# The oldest opset and file version with everything the architectures use: more engines read it.
OPSET, IR_VERSION = 13, 7
ELSEWHERE, NOTE_KEY = "weights", "deltafleet"
_INPUT_TYPES: Mapping[int, str] = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.UINT8: "uint8",
    TensorProto.INT32: "int32",
    TensorProto.INT64: "int64",
}
_ODD = re.compile(r"[^A-Za-z0-9_.-]")
# These read small constants while shapes are inferred, before any weight is injected.
_SHAPING = frozenset(
    {"Clip", "Expand", "Pad", "Range", "Reshape", "Resize", "Slice", "Tile", "TopK", "Upsample", "Loop", "If", "Scan"}
)
_QUANTISING = frozenset({"QuantizeLinear", "DequantizeLinear"})
_BIASED = frozenset({"Conv", "ConvTranspose", "Gemm"})

Weights = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True, eq=False)
class StrippedModel:
    """A graph without weights, the weights in the order of the graph, and the interface that the manifest declares.

    ``note``: what ``fill_graph`` left in the model's metadata.
    """

    graph: bytes
    weights: Weights
    inputs: tuple[InputSpec, ...]
    outputs: tuple[str, ...]
    note: str | None


def build_graph(architecture: Architecture, size: tuple[int, int]) -> bytes:
    """The graph for inputs (1, 3, height, width) of ``size``; weights are named by the architecture's keys."""
    nodes: list[NodeProto] = []
    renamed: dict[str, str] = {}
    for layer in architecture.layers:
        inputs = [renamed.get(name, name) for name in layer.inputs]
        if isinstance(layer.operation, Dropout):
            renamed[layer.name] = inputs[0]
        else:
            nodes.append(_node(layer, inputs))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, (1, 3, *size))],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, (1, architecture.classes))],
        [_declared(name, shape) for name, shape in architecture.shapes.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return bytes(model.SerializeToString(deterministic=True))


def _node(layer: Layer, inputs: list[str]) -> NodeProto:
    operation = layer.operation
    if isinstance(operation, Convolution):
        window = _window(operation) | {"pads": [operation.padding] * 4}
        return helper.make_node("Conv", [*inputs, *operation.shapes], [layer.name], **window)
    if isinstance(operation, Linear):
        return helper.make_node("Gemm", [*inputs, *operation.shapes], [layer.name], transB=1)
    if isinstance(operation, MaxPool):
        return helper.make_node("MaxPool", inputs, [layer.name], ceil_mode=int(operation.ceil), **_window(operation))
    if operation is Plain.CONCATENATE:
        return helper.make_node("Concat", inputs, [layer.name], axis=1)
    kinds = {Plain.RELU: "Relu", Plain.ADD: "Add", Plain.AVERAGE: "GlobalAveragePool", Plain.FLATTEN: "Flatten"}
    return helper.make_node(kinds[Plain(str(operation))], inputs, [layer.name])


def _window(operation: Convolution | MaxPool) -> dict[str, Any]:
    return {"kernel_shape": [operation.kernel] * 2, "strides": [operation.stride] * 2}


def _declared(name: str, shape: tuple[int, ...]) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=ELSEWHERE)
    return tensor


def strip_model(data: bytes, size: tuple[int, int] | None = None) -> StrippedModel:
    """Separate a self-contained ONNX model into graph and float32 weights.

    ``size``: height and width for an image input that leaves them open. Weights of other types, scalars, and what shape
    inference has to see stay in the graph. Raises ArtifactRefused.
    """
    model = _parse(data)
    _refuse_external(model)
    graph = model.graph
    known = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in known]
    for value in inputs:
        _fix_shape(value, size)
    del graph.input[:]
    graph.input.extend(inputs)
    specs = tuple(map(_input_spec, inputs))
    weights = _extract(graph)
    note = next((entry.value for entry in model.metadata_props if entry.key == NOTE_KEY), None)
    _clean(model)
    stripped = bytes(model.SerializeToString(deterministic=True))
    if len(stripped) > DEFAULT_LIMITS.max_graph_bytes:
        raise LimitExceeded(
            f"without float32 weights the graph still has {len(stripped)} bytes, the limit is {DEFAULT_LIMITS.max_graph_bytes}",
            remedy="export the network with float32 weights",
        )
    return StrippedModel(stripped, weights, specs, tuple(value.name for value in graph.output), note)


def fill_graph(graph: bytes, weights: Mapping[str, npt.NDArray[np.float32]], note: str | None = None) -> bytes:
    """A self-contained ONNX model: the inverse of ``strip_model``. Raises ModelUnusable for a weight that is missing."""
    model = _parse(graph)
    for tensor in model.graph.initializer:
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        value = weights.get(tensor.name)
        if value is None or value.shape != tuple(tensor.dims):
            raise ModelUnusable(f"the graph needs a weight {tensor.name!r} of shape {tuple(tensor.dims)}")
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value, np.float32), tensor.name))
    if note is not None:
        model.metadata_props.add(key=NOTE_KEY, value=note)
    return bytes(model.SerializeToString(deterministic=True))


def declared_weights(graph: bytes) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights that the graph expects to be injected, by name."""
    tensors = _parse(graph).graph.initializer
    return {t.name: tuple(t.dims) for t in tensors if t.data_location == TensorProto.EXTERNAL}


def interface(graph: bytes) -> tuple[tuple[InputSpec, ...], tuple[str, ...]]:
    """Inputs and output names of a stripped graph. Raises ArtifactRefused."""
    parsed = _parse(graph).graph
    return tuple(map(_input_spec, parsed.input)), tuple(value.name for value in parsed.output)


def bias_names(graph: bytes) -> frozenset[str]:
    """Weights that are only ever added to the sums of a convolution or a linear layer."""
    nodes = list(_parse(graph).graph.node)
    biases = {node.input[2] for node in nodes if node.op_type in _BIASED and len(node.input) > 2}
    others = {name for node in nodes for i, name in enumerate(node.input) if node.op_type not in _BIASED or i != 2}
    return frozenset(biases - others)


def output_classes(graph: bytes) -> int | None:
    """Length of the first output's last axis, where the graph declares it."""
    outputs = _parse(graph).graph.output
    dims = outputs[0].type.tensor_type.shape.dim if outputs else ()
    return int(dims[-1].dim_value) or None if dims else None


def _parse(data: bytes) -> ModelProto:
    try:
        model = ModelProto()
        model.ParseFromString(data)
    except DecodeError as exc:
        raise MalformedArtifact("not an ONNX model: the file is damaged or of another kind") from exc
    # Almost any short byte string is a valid empty message.
    if not model.graph.node or not model.graph.output or not model.opset_import:
        raise MalformedArtifact("not an ONNX model: it has no graph")
    # The parser hands over names that are not UTF-8 as bytes.
    if not all(isinstance(name, str) for name in _value_names(model.graph)):
        raise MalformedArtifact("not an ONNX model: a name is not UTF-8")
    return model


def _refuse_external(model: ModelProto) -> None:
    graphs = [model.graph, *(GraphProto(node=function.node) for function in model.functions)]
    for tensor in (tensor for graph in graphs for tensor in _tensors(graph)):
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            raise UnsupportedArtifact(
                f"the model keeps {tensor.name or 'a tensor'!r} in another file",
                remedy="save it as one file, for example with onnx.save_model(model, path, save_as_external_data=False)",
            )


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield from (sparse.values, sparse.indices)
        for inner in _subgraphs(attribute):
            yield from _tensors(inner)


def _subgraphs(attribute: AttributeProto) -> list[GraphProto]:
    return [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def _fix_shape(value: ValueInfoProto, size: tuple[int, int] | None) -> None:
    """Make a graph input concrete: batch 1, and ``size`` for the open sides of a picture."""
    dims = value.type.tensor_type.shape.dim
    picture = dict(zip((2, 3), size, strict=True)) if size and len(dims) == 4 else {}
    for axis, dim in enumerate(dims):
        fixed = dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None
        if axis == 0 and fixed is None:
            fixed = 1
        fixed = fixed or picture.get(axis)
        if fixed is None:
            raise UnsupportedArtifact(
                f"input {value.name!r} leaves axis {axis} open",
                remedy="export with a fixed shape, or give --preprocess with the size",
            )
        dim.Clear()
        dim.dim_value = fixed


def _input_spec(value: ValueInfoProto) -> InputSpec:
    tensor = value.type.tensor_type
    dtype = _INPUT_TYPES.get(tensor.elem_type)
    if dtype is None:
        raise UnsupportedArtifact(f"input {value.name!r} is not one of {', '.join(DTYPES)}")
    return InputSpec(value.name, dtype, tuple(dim.dim_value for dim in tensor.shape.dim))


def _extract(graph: GraphProto) -> Weights:
    """Take the float32 weights out of the initializers, renaming where rule 3 asks for it."""
    kept_inside = _needed_inside(graph)
    taken = [t for t in graph.initializer if t.data_type == TensorProto.FLOAT and t.dims and t.name not in kept_inside]
    names = _plain_names([t.name for t in taken], _value_names(graph))
    weights: Weights = {}
    for tensor in taken:
        shape = tuple(tensor.dims)
        try:
            value = numpy_helper.to_array(tensor)
        except (ValueError, TypeError) as exc:
            raise MalformedArtifact(f"weight {tensor.name!r} has not the size that its shape says") from exc
        weights[names[tensor.name]] = np.array(value, np.float32).reshape(shape)
        tensor.CopyFrom(_declared(names[tensor.name], shape))
    _rename(graph, {old: new for old, new in names.items() if old != new})
    return weights


def _needed_inside(graph: GraphProto) -> set[str]:
    """Names that cannot be injected: read by shape inference, by subgraphs, or given out as they are."""
    inside = {value.name for value in graph.output}
    for node in graph.node:
        # The data input of these operators may still be a weight.
        if node.op_type in _SHAPING | _QUANTISING:
            inside.update(node.input[1:])
        for attribute in node.attribute:
            for inner in _subgraphs(attribute):
                inside |= _value_names(inner)
    return inside


def _value_names(graph: GraphProto) -> set[str]:
    names = {value.name for value in (*graph.input, *graph.output)} | {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        names.update(node.input, node.output)
        for attribute in node.attribute:
            for inner in _subgraphs(attribute):
                names |= _value_names(inner)
    return names


def _plain_names(names: list[str], used: set[str]) -> dict[str, str]:
    result: dict[str, str] = {}
    used = set(used)
    for name in names:
        plain = _ODD.sub("_", name)[:200] or "weight"
        if plain != name:
            stem, number = plain, 1
            while plain in used:
                plain, number = f"{stem}.{number}", number + 1
            used.add(plain)
        result[name] = plain
    return result


def _rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    for node in graph.node if names else ():
        node.input[:] = [names.get(name, name) for name in node.input]


def _clean(model: ModelProto) -> None:
    """Drop what no engine needs; it would only cost bytes and betray where the model was made."""
    for field in (
        "producer_name",
        "producer_version",
        "domain",
        "model_version",
        "doc_string",
        "metadata_props",
        "training_info",
    ):
        model.ClearField(field)
    graph = model.graph
    for field in ("doc_string", "value_info", "quantization_annotation", "metadata_props"):
        graph.ClearField(field)
    for item in (*graph.node, *graph.input, *graph.output):
        item.ClearField("doc_string")
        item.ClearField("metadata_props")


def parameters(weights: Mapping[str, npt.NDArray[np.float32]]) -> int:
    """How many numbers were trained."""
    return sum(math.prod(value.shape) for value in weights.values())
