"""Untrained networks as an ML engineer would hand them over: checkpoints that compress, differ and classify."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from model_registry.architectures import architecture
from model_registry.contract.preprocessing import Preprocessing
from model_registry.models.checkpoints import Description, Weights
from model_registry.models.safetensors_file import write_safetensors

PREPROCESSING = Preprocessing((64, 64), (64, 64), "RGB", (124.0, 116.0, 104.0), (0.017, 0.017, 0.017))


def untrained(name: str, classes: int, *, seed: int) -> Weights:
    """He-initialised weights: activations neither vanish nor explode."""
    random = np.random.default_rng(seed)
    return {key: _initial(random, shape) for key, shape in architecture(name, classes).shapes.items()}


def retrained(weights: Weights, *, seed: int) -> Weights:
    """The same network after a little more training of its last layer."""
    random = np.random.default_rng(seed)
    last = list(weights)[-2:]
    return {
        key: value + (random.normal(0, 0.01, value.shape).astype(np.float32) if key in last else 0)
        for key, value in weights.items()
    }


def checkpoint(name: str, weights: Weights, classes: int, preprocessing: Preprocessing = PREPROCESSING) -> bytes:
    """A .safetensors file that says what it is."""
    labels = tuple(f"sign {index}" for index in range(classes))
    return write_safetensors(weights, Description(architecture=name, preprocessing=preprocessing, labels=labels))


def _initial(random: np.random.Generator, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 0
    scale = np.sqrt(2 / fan_in) if fan_in else 0.0
    return random.normal(0, scale, shape).astype(np.float32)
