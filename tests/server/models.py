"""Tiny networks as publishers send them: ONNX files of a kilobyte, and the artifacts made from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from model_registry.compression.pipeline import compress_checkpoint
from model_registry.compression.recipe import Recipe
from model_registry.contract.content import Content
from model_registry.contract.full import encode_full

INPUTS, HIDDEN, CLASSES = 16, 48, 4


def onnx_file(seed: int = 0, *, nudge: float = 0.0, hidden: int = HIDDEN) -> bytes:
    """Two dense layers of random weights; ``nudge`` moves the last one a little."""
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(INPUTS, hidden)).astype(np.float32) / 4
    second = rng.normal(size=(hidden, CLASSES)).astype(np.float32) / 4 + np.float32(nudge)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "first"], ["h"]),
            helper.make_node("Tanh", ["h"], ["t"]),
            helper.make_node("MatMul", ["t", "second"], ["y"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, INPUTS))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, CLASSES))],
        [numpy_helper.from_array(first, "first"), numpy_helper.from_array(second, "second")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


def content(folder: Path, seed: int = 0, *, nudge: float = 0.0, lossless: bool = True) -> Content:
    """The same network as a compress job makes it."""
    path = folder / f"tiny-{seed}-{nudge}.onnx"
    path.write_bytes(onnx_file(seed, nudge=nudge))
    return compress_checkpoint(path, Recipe(lossless=lossless))


def full_file(folder: Path, seed: int = 0, *, nudge: float = 0.0) -> bytes:
    """The same network as a .dfm."""
    return encode_full(content(folder, seed, nudge=nudge))
