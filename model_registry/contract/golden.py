"""Golden vectors: inputs that anyone can make from a seed, and the check of a model's answers to them.

A whole 227 x 227 picture would weigh more than a delta, so the input is a function of the seed: SHA-256 in counter mode gives
bytes; for a network with preprocessing they are an 8 x 8 mosaic of colours blown up to its size, otherwise plain numbers.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from model_registry.contract.errors import SelfTestFailed
from model_registry.contract.manifest import GoldenVector, InputSpec, Manifest

MOSAIC = 8
LISTED = 5
# Engines differ by rounding alone: parity of float32 engines was within 5e-5 of the outputs' spread, int8 engines are not used.
RELATIVE_TOLERANCE = 1e-2


def golden_inputs(manifest: Manifest, seed: int) -> dict[str, npt.NDArray[np.generic]]:
    """The inputs of ``seed``, by name, with the shapes and types that the manifest declares."""
    return {spec.name: _golden_input(manifest, spec, seed + index) for index, spec in enumerate(manifest.inputs)}


def _golden_input(manifest: Manifest, spec: InputSpec, seed: int) -> npt.NDArray[np.generic]:
    preprocessing = manifest.preprocessing
    if preprocessing is not None and spec.shape == (1, 3, *preprocessing.size) and spec.dtype == "float32":
        mosaic = np.frombuffer(_stream(seed, MOSAIC * MOSAIC * 3), np.uint8).reshape(MOSAIC, MOSAIC, 3)
        height, width = preprocessing.size
        rows, columns = np.arange(height) * MOSAIC // height, np.arange(width) * MOSAIC // width
        return preprocessing.normalise(mosaic[rows][:, columns].astype(np.float32))
    raw = np.frombuffer(_stream(seed, int(np.prod(spec.shape))), np.uint8).reshape(spec.shape)
    if spec.dtype in ("float32", "float16"):
        return ((raw.astype(np.float32) - 127.5) / 127.5).astype(spec.dtype)
    # Integer inputs are often indices or masks: 0 and 1 are valid in both.
    return (raw & 1).astype(spec.dtype)


def _stream(seed: int, size: int) -> bytes:
    blocks = (hashlib.sha256(seed.to_bytes(8, "little") + i.to_bytes(8, "little")).digest() for i in range(-(-size // 32)))
    return b"".join(blocks)[:size]


def summarise(seed: int, outputs: Sequence[npt.NDArray[np.generic]]) -> GoldenVector:
    """Condense a trusted engine's outputs for ``seed`` for the manifest. Raises SelfTestFailed on NaN or infinity."""
    flat = _flatten(outputs)
    with np.errstate(over="ignore", invalid="ignore"):
        deviation = float(flat.std()) if flat.size else math.nan
    if not np.isfinite(flat).all() or not math.isfinite(deviation):
        raise SelfTestFailed("the model's outputs to a golden input are not all finite numbers")
    indices = np.sort(np.argsort(-np.abs(flat), kind="stable")[:LISTED])
    first, exponent = _round_figure(max(deviation, float(np.abs(flat).max()) * 1e-2, 1e-6) * RELATIVE_TOLERANCE)
    # Off by a quarter of the tolerance at most, and few bytes in a delta. Adding 0 takes the sign from a zero.
    decimals = -exponent + (first == 1)
    told = [round(float(value), decimals) + 0.0 for value in (*flat[indices], flat.mean(), deviation)]
    tolerance = float(f"{first}e{exponent}")
    return GoldenVector(seed, tuple(int(i) for i in indices), tuple(told[:-2]), told[-2], told[-1], tolerance)


def check(vector: GoldenVector, outputs: Sequence[npt.NDArray[np.generic]]) -> None:
    """Compare an engine's outputs with the golden vector. Raises SelfTestFailed; NaN anywhere fails."""
    flat = _flatten(outputs)
    if vector.indices and max(vector.indices) >= flat.size:
        raise SelfTestFailed(f"the model has {flat.size} outputs, the golden vector names output {max(vector.indices)}")
    found = np.array([*flat[list(vector.indices)], flat.mean(), flat.std()])
    expected = np.array([*vector.values, vector.mean, vector.deviation])
    worst = float(np.abs(found - expected).max())
    # Written so that a NaN, which compares false with everything, fails.
    if not worst <= vector.tolerance:
        raise SelfTestFailed(f"golden vector {vector.seed}: outputs are off by {worst:.3g}, allowed are {vector.tolerance:.3g}")


def _flatten(outputs: Sequence[npt.NDArray[np.generic]]) -> npt.NDArray[np.float64]:
    return np.concatenate([np.asarray(o, np.float64).ravel() for o in outputs]) if outputs else np.zeros(0)


def _round_figure(value: float) -> tuple[int, int]:
    """(1, 2 or 5, exponent) of the first such number from ``value`` on: hardly ever another one from release to release."""
    exponent = int(f"{value:.17e}".split("e")[1])
    return next(((digit, exponent) for digit in (1, 2, 5) if float(f"{digit}e{exponent}") >= value), (1, exponent + 1))
