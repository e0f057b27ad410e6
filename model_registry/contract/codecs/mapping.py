"""A codebook tensor whose weights moved only with their entries: one new rank for every old one.

Trained centroids pass each other or meet; then every index changes although no weight chose another entry. The ranks are sent
as distances around the new alphabet, nearly all of them 0.
"""

from __future__ import annotations

import numpy as np

from model_registry.contract.codecs.integers import Array, IntegerView
from model_registry.contract.codecs.sections import Sink, Source
from model_registry.contract.tensors import EncodedTensor, Encoding


def maps(old: EncodedTensor | None, view: IntegerView, shape: tuple[int, ...]) -> bool:
    """Whether such a tensor may be coded against ``old`` at all."""
    return old is not None and old.encoding is view.encoding is Encoding.CODEBOOK and old.shape == shape


def write_mapping(sink: Sink, old: EncodedTensor, new: EncodedTensor) -> bool:
    """Code ``new`` by the ranks alone; False where values of one old rank have several new ones."""
    before, view = IntegerView(old.encoding, old.scale), IntegerView(new.encoding, new.scale)
    old_ranks, new_ranks = before.integers(old.values), view.integers(new.values)
    ranks = np.minimum(np.arange(old.scale.size), new.scale.size - 1)
    ranks[old_ranks] = new_ranks
    if (ranks[old_ranks] != new_ranks).any():
        return False
    sink.symbols.partition((ranks - np.arange(ranks.size)) % new.scale.size, new.scale.size)
    return True


def read_mapping(source: Source, old: EncodedTensor, view: IntegerView) -> Array:
    """The inverse of ``write_mapping``, in the shape of ``old``. Raises MalformedArtifact."""
    before, count = IntegerView(old.encoding, old.scale), int(view.scale.size)
    steps = source.symbols.partition(old.scale.size, count, np.int64)
    ranks = (np.arange(old.scale.size) + steps) % count
    table = view.values(ranks)[before.integers(np.arange(old.scale.size).astype(np.uint8))]
    values: Array = table[old.values]
    return values
