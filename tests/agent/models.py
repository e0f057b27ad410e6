"""Small networks with the shape of real ones: a picture in, four classes out, golden vectors, injected weights."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper
from PIL import Image

from model_registry.contract.content import Content
from model_registry.contract.golden import golden_inputs, summarise
from model_registry.contract.manifest import GoldenVector, InputSpec, Manifest
from model_registry.contract.preprocessing import Preprocessing
from model_registry.contract.session import Session
from model_registry.contract.tensors import float32_tensor

FAMILY, HARDWARE = "signs", "ecu-1"
LABELS = ("stop", "yield", "speed 30", "speed 50")
SIDE = 16
PREPROCESSING = Preprocessing((SIDE, SIDE), None, "RGB", (127.5,) * 3, (1 / 127.5,) * 3)
Array = npt.NDArray[np.float32]


# Black is -1 in every channel: the root of (mean + 0.99) is then no number.
BRITTLE = [
    helper.make_node("ReduceMean", ["x"], ["m"], keepdims=1),
    helper.make_node("Constant", [], ["c"], value_float=0.99),
    helper.make_node("Add", ["m", "c"], ["a"]),
    helper.make_node("Sqrt", ["a"], ["q"]),
    helper.make_node("Mul", ["x", "q"], ["s"]),
]


def graph(hidden: int, *, brittle: bool = False) -> bytes:
    """Two dense layers; the weights are declared, not held. A brittle one answers NaN to a black picture."""
    shapes = {"w1": (3 * SIDE * SIDE, hidden), "w2": (hidden, len(LABELS))}
    model = helper.make_model(
        helper.make_graph(
            [
                *(BRITTLE if brittle else [helper.make_node("Identity", ["x"], ["s"])]),
                helper.make_node("Flatten", ["s"], ["f"]),
                helper.make_node("MatMul", ["f", "w1"], ["h"]),
                helper.make_node("Tanh", ["h"], ["t"]),
                helper.make_node("MatMul", ["t", "w2"], ["y"]),
            ],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, SIDE, SIDE))],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, len(LABELS)))],
            [_declared(name, shape) for name, shape in shapes.items()],
        ),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=7,
    )
    return bytes(model.SerializeToString(deterministic=True))


def _declared(name: str, shape: tuple[int, ...]) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="weights")
    return tensor


def unchanged(weights: Array) -> Array:
    return weights


def make_content(
    version: str,
    *,
    hidden: int = 8,
    seed: int = 1,
    change: Callable[[Array], Array] = unchanged,
    golden_change: Callable[[Array], Array] | None = None,
    brittle: bool = False,
) -> Content:
    """A model; ``change`` edits the last layer's weights, ``golden_change`` those that the golden vectors were made with."""
    network = graph(hidden, brittle=brittle)
    honest = _content(version, network, (), hidden=hidden, seed=seed, change=golden_change or change)
    vectors = [_vector(honest, seed) for seed in (7, 8)]
    return _content(version, network, tuple(vectors), hidden=hidden, seed=seed, change=change)


def _vector(content: Content, seed: int) -> GoldenVector:
    return summarise(seed, Session(content).run(golden_inputs(content.manifest, seed)))


def _content(
    version: str, network: bytes, golden: tuple[GoldenVector, ...], *, hidden: int, seed: int, change: Callable[[Array], Array]
) -> Content:
    rng = np.random.default_rng(seed)
    first = (rng.standard_normal((3 * SIDE * SIDE, hidden)) * 0.05).astype(np.float32)
    last = change(rng.standard_normal((hidden, len(LABELS))).astype(np.float32)).astype(np.float32)
    manifest = Manifest(
        architecture="onnx",
        parameters=first.size + last.size,
        inputs=(InputSpec("x", "float32", (1, 3, SIDE, SIDE)),),
        outputs=("y",),
        preprocessing=PREPROCESSING,
        labels=LABELS,
        golden=golden,
        family=FAMILY,
        version=version,
    )
    return Content(manifest, network, (float32_tensor("w1", first), float32_tensor("w2", last)))


def picture(seed: int = 0) -> bytes:
    """A PNG file."""
    return encoded(np.random.default_rng(seed).integers(0, 256, (40, 50, 3), np.uint8))


def black_picture() -> bytes:
    return encoded(np.zeros((SIDE, SIDE, 3), np.uint8))


def encoded(pixels: npt.NDArray[np.uint8], form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()
