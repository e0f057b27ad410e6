"""A small tensor of integers of which nearly all change, as biases do: every difference from its prediction, as a number.

Numbers have laws, so that a layer's few hundred biases need no table of their own.
"""

from __future__ import annotations

import math

import numpy as np

from model_registry.contract.codecs.integers import Array, IntegerView
from model_registry.contract.codecs.numbers import read_numbers, write_numbers
from model_registry.contract.codecs.prediction import Prediction, predict
from model_registry.contract.codecs.sections import Sink, Source
from model_registry.contract.entropy import unzigzag, zigzag
from model_registry.contract.errors import MalformedArtifact, UnsupportedArtifact
from model_registry.contract.tensors import EncodedTensor

# By integer; by weight it is one more.
FIRST_DIFFERENCES = 46
# Larger ones earn tables of their own.
FEWER_THAN = 4096


def encode_differences(prediction: Prediction, values: Array, *, by_weight: bool) -> tuple[int, Sink]:
    """The coder's number, and what it sends; ``values`` are integers, fewer than ``FEWER_THAN``."""
    sink, expected = Sink(), prediction.integers(slice(0, values.size)).astype(np.int64)
    write_numbers(sink.symbols, zigzag(prediction.new.integers(values.ravel()) - expected))
    return FIRST_DIFFERENCES + by_weight, sink


def decode_differences(
    number: int, old: EncodedTensor | None, *, view: IntegerView, shape: tuple[int, ...], source: Source
) -> Array:
    """Values of ``shape``. Raises ArtifactRefused."""
    size = math.prod(shape)
    if not view.is_integer or size >= FEWER_THAN:
        raise UnsupportedArtifact(f"unknown coder {number} for {view.encoding.name}", remedy="update this program")
    prediction = predict(old, view, shape, by_weight=number > FIRST_DIFFERENCES) if old else None
    if prediction is None:
        raise MalformedArtifact("differences are coded against a tensor that the base does not have, or not like this")
    integers = prediction.integers(slice(0, size)) + unzigzag(read_numbers(source.symbols, size)).astype(np.int64)
    if view.alphabet is not None and ((integers < 0) | (integers >= view.alphabet)).any():
        raise MalformedArtifact("a difference leads beyond what its tensor can hold")
    return view.values(integers).reshape(shape)
