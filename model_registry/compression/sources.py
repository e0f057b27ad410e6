"""Which tensors came from the same floats as the base's: those are left as the vehicle has them.

A content's recipe has digests of the floats that its tensors were made from, in the order of the tensors. In a version without
a base each tensor has its own. What an update changes is told in *runs* that share a digest, the last tensor by itself and
longer ones before it: training that goes on with some layers goes on with the last ones, and a digest for each of fifty tensors
would be an eighth of a small delta.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from model_registry.contract.content import Content
from model_registry.contract.tensors import EncodedTensor

Weights = Mapping[str, npt.NDArray[np.float32]]
KEY = "sources"
# Enough to see that floats did not change, few enough to travel.
DIGEST_BYTES = 3


@dataclass(frozen=True, slots=True)
class Run:
    """Tensors that follow each other, and the hexadecimal digest of their floats."""

    names: tuple[str, ...]
    digest: str

    @classmethod
    def of(cls, names: Sequence[str], weights: Weights) -> Run:
        digest = hashlib.sha256()
        for name in names:
            digest.update(repr(weights[name].shape).encode() + weights[name].tobytes())
        return cls(tuple(names), digest.digest()[:DIGEST_BYTES].hex())


@dataclass(frozen=True, slots=True)
class Sources:
    """The floats that the tensors of a content were made from; ``unchanged``: the tensors whose floats are the base's."""

    runs: tuple[Run, ...]
    unchanged: frozenset[str]

    @classmethod
    def of(cls, weights: Weights, base: Content | None) -> Sources:
        """Of an update of ``base``, or of a version by itself."""
        if base is None:
            return cls(tuple(Run.of([name], weights) for name in weights), frozenset())
        inside = {name: run for run in _kept(base, weights) for name in run.names}
        runs: list[Run] = []
        for run, names in groupby(weights, key=inside.get):
            runs += [run] if run else [Run.of(part, weights) for part in _parts(list(names))]
        return cls(tuple(runs), frozenset(inside))

    def to_json(self) -> list[Any]:
        return [[len(run.names), run.digest] for run in self.runs]


def unchanged(weights: Weights, base: Content | None) -> dict[str, EncodedTensor]:
    """The base's tensors that came from the same floats as ``weights``, by name."""
    if base is None:
        return {}
    kept = {name for run in _kept(base, weights) for name in run.names}
    return {tensor.name: tensor for tensor in base.tensors if tensor.name in kept}


def _kept(base: Content, weights: Weights) -> list[Run]:
    """The base's runs whose tensors are all there, one behind the other, with the same floats."""
    names = list(weights)
    places = {name: place for place, name in enumerate(names)}

    def stands(run: Run) -> bool:
        start = places.get(run.names[0], len(names))
        return tuple(names[start : start + len(run.names)]) == run.names

    return [run for run in _known(base) if stands(run) and Run.of(run.names, weights) == run]


def _known(base: Content) -> Iterator[Run]:
    """Those that the base's recipe tells, as far as it tells any."""
    told, names = base.manifest.lineage.recipe.get(KEY), [tensor.name for tensor in base.tensors]
    for item in _one_by_one(told) if isinstance(told, str) else told if isinstance(told, list) else []:
        match item:
            case [int(count), str(digest)] if 0 < count <= len(names):
                yield Run(tuple(names[:count]), digest)
                del names[:count]
            case _:
                return


def _one_by_one(told: str) -> list[Any]:
    """Contents of before there were runs have four characters of base64 for each tensor."""
    try:
        digests = base64.b64decode(told, validate=True)
    except ValueError:
        return []
    return [[1, digests[at : at + DIGEST_BYTES].hex()] for at in range(0, len(digests), DIGEST_BYTES)]


def _parts(names: Sequence[str]) -> list[Sequence[str]]:
    """The last one, the one before it, the two before that, then four, eight and so on; in their order."""
    parts: list[Sequence[str]] = []
    end, size = len(names), 1
    while end:
        start = max(end - size, 0)
        parts.insert(0, names[start:end])
        size = len(names) - start
        end = start
    return parts
