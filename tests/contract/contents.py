"""Contents for the contract's tests: small, of every encoding, awkward on purpose."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from model_registry.contract.content import Content
from model_registry.contract.manifest import InputSpec, Manifest
from model_registry.contract.tensors import NO_OFFSETS, NO_SCALE, EncodedTensor, Encoding, rows_of

MAX_EXAMPLE_SIDE = 7


def manifest(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "architecture": "squeezenet1_1",
        "parameters": 12,
        "inputs": (InputSpec("image", "float32", (1, 3, 8, 8)),),
        "outputs": ("scores",),
        "labels": ("stop", "yield"),
    }
    return Manifest(**(fields | changes))


def content(*tensors: EncodedTensor, graph: bytes = b"graph", **changes: Any) -> Content:
    return Content(manifest(**changes), graph, tensors)


def tensor(name: str, encoding: Encoding, values: Any, scale: Any = ()) -> EncodedTensor:
    stored = np.asarray(values, encoding.dtype, order="C")
    return EncodedTensor(name, encoding, stored, np.asarray(scale, np.float32) if len(scale) else NO_SCALE)


def shifted(plain: EncodedTensor, offsets: Any) -> EncodedTensor:
    """With offsets (1 or 2, rows)."""
    return replace(plain, offsets=np.asarray(offsets, np.float32))


def sparse_codebook(name: str, shape: tuple[int, ...], *, seed: int, entries: int = 32) -> EncodedTensor:
    """Like a pruned and clustered layer: two thirds zeros, an unsorted codebook whose entry 0 is the weight 0."""
    rng = np.random.default_rng(seed)
    scale = np.concatenate([[0], rng.standard_normal(entries - 1)]).astype(np.float16).astype(np.float32)
    indices = np.where(rng.random(shape) < 2 / 3, 0, rng.integers(0, entries, shape))
    return EncodedTensor(name, Encoding.CODEBOOK, indices.astype(np.uint8), scale)


def small_network(*, version: str = "1.0.0", seed: int = 1) -> Content:
    """One tensor of every encoding, a few thousand weights."""
    rng = np.random.default_rng(seed)
    return content(
        sparse_codebook("conv.weight", (32, 16, 3, 3), seed=seed),
        tensor("conv.bias", Encoding.GRID8, rng.integers(-127, 128, 32), [0.01]),
        tensor("rows.weight", Encoding.GRID16, rng.integers(-900, 900, (8, 40)), rng.random(8) + 0.5),
        tensor("half.weight", Encoding.FLOAT16, rng.standard_normal((20, 20))),
        tensor("full.weight", Encoding.FLOAT32, rng.standard_normal((10, 30))),
        tensor("awkward", Encoding.FLOAT32, awkward_floats("<f4")),
        tensor("scalar", Encoding.FLOAT32, np.float32(3)),
        tensor("empty", Encoding.FLOAT16, np.zeros((0, 4))),
        version=version,
    )


def awkward_floats(dtype: str) -> npt.NDArray[Any]:
    """Both zeros, infinities, subnormals, NaNs with payloads and either sign."""
    patterns = {
        "<f4": [0, 0x80000000, 0x7F800000, 0xFF800000, 1, 0x80000001, 0x7FC00001, 0xFFC12345, 0x7F800001, 0x3F800000],
        "<f2": [0, 0x8000, 0x7C00, 0xFC00, 1, 0x8001, 0x7E01, 0xFF12, 0x7C01, 0x3C00],
    }[dtype]
    return np.array(patterns, dtype.replace("f", "u")).view(dtype)


@st.composite
def tensors(draw: st.DrawFn, name: str = "t") -> EncodedTensor:
    """Any valid tensor of a few hundred values."""
    encoding = draw(st.sampled_from(list(Encoding)))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=MAX_EXAMPLE_SIDE))
    return _filled(draw, name, encoding, shape)


@st.composite
def successors(draw: st.DrawFn, old: EncodedTensor) -> EncodedTensor:
    """What may become of a tensor in the next version: a few values, the scale, the shape, all of it or nothing changed."""
    match draw(st.sampled_from(["same", "some", "scale", "offsets", "resized", "encoding", "other"])):
        case "same":
            return old
        case "some":
            fresh = _filled(draw, old.name, old.encoding, old.shape, scale=old.scale)
            keep = draw(hnp.arrays(np.bool_, old.shape))
            return replace(old, values=np.where(keep, old.values, fresh.values))
        case "scale":
            with np.errstate(over="ignore"):
                shifted = (old.scale * np.float32(1.125)).astype(np.float32)
            return replace(old, scale=shifted)
        case "offsets":
            return replace(old, offsets=draw(_offsets(old.encoding, old.shape)))
        case "resized" if old.scale.size <= 1 or old.encoding is Encoding.CODEBOOK:
            shape = tuple(draw(st.integers(0, MAX_EXAMPLE_SIDE)) for _ in old.shape)
            return _filled(draw, old.name, old.encoding, shape, scale=old.scale)
        case "resized":
            shape = tuple(draw(st.integers(0, MAX_EXAMPLE_SIDE)) for _ in old.shape)
            return _filled(draw, old.name, old.encoding, shape)
        case "encoding":
            return _filled(draw, old.name, draw(st.sampled_from(list(Encoding))), old.shape)
        case _:
            return draw(tensors(old.name))


def _filled(
    draw: st.DrawFn, name: str, encoding: Encoding, shape: tuple[int, ...], scale: npt.NDArray[np.float32] | None = None
) -> EncodedTensor:
    made = _valued(draw, name, encoding, shape, scale)
    return replace(made, offsets=draw(_offsets(encoding, shape)))


def _offsets(encoding: Encoding, shape: tuple[int, ...]) -> st.SearchStrategy[npt.NDArray[np.float32]]:
    if encoding in (Encoding.FLOAT32, Encoding.FLOAT16) or not rows_of(shape):
        return st.just(NO_OFFSETS)
    numbers = st.floats(width=32) | st.integers(-9, 9).map(lambda level: level * 2.0**-12)
    some = hnp.arrays(np.float32, st.tuples(st.sampled_from([1, 2]), st.just(rows_of(shape))), elements=numbers)
    return st.just(NO_OFFSETS) | some


def _valued(
    draw: st.DrawFn, name: str, encoding: Encoding, shape: tuple[int, ...], scale: npt.NDArray[np.float32] | None
) -> EncodedTensor:
    if scale is None:
        scale = draw(_scales(encoding, shape))
    if encoding is Encoding.CODEBOOK:
        return EncodedTensor(name, encoding, draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, scale.size - 1))), scale)
    unsigned = draw(hnp.arrays(np.dtype(f"<u{encoding.dtype.itemsize}"), shape))
    return EncodedTensor(name, encoding, unsigned.view(encoding.dtype), scale)


def _scales(encoding: Encoding, shape: tuple[int, ...]) -> st.SearchStrategy[npt.NDArray[np.float32]]:
    match encoding:
        case Encoding.CODEBOOK:
            return hnp.arrays(np.float32, st.integers(1, 20), elements=st.floats(width=32, allow_nan=False))
        case Encoding.GRID8 | Encoding.GRID16:
            rows = max(shape[0], 1) if shape else 1
            return hnp.arrays(np.float32, st.sampled_from([1, rows]), elements=st.floats(-1e3, 1e3, width=32))
        case _:
            return st.just(NO_SCALE)


@st.composite
def contents(draw: st.DrawFn) -> Content:
    made = [draw(tensors(f"layer{i}.weight")) for i in range(draw(st.integers(0, 4)))]
    return content(*made, graph=draw(st.binary(max_size=60)))


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Content, Content]:
    """A base and a new content."""
    base = draw(contents())
    new = [draw(successors(t)) for t in base.tensors if draw(st.integers(0, 5))]
    if draw(st.booleans()):
        new.append(draw(tensors("added")))
    return base, content(*new, graph=base.graph, version="1.0.1")
