"""A layer's weights share a few values: k-means, with centroids that can be trained afterwards.

Han, Mao and Dally 2016 (arXiv 1510.00149), section 3: one codebook a layer, centroids that start evenly between the smallest
and the largest weight (3.2: few weights are large, and they matter); after that no weight changes its centroid. Index 0 is
zero: the pruned weights, which no training touches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
MAX_ROUNDS = 100


@dataclass(frozen=True, slots=True, eq=False)
class Shared:
    """``centroids``: float32, the first one 0; ``indices``: an index (uint8) for each weight, in the weight's shape."""

    centroids: Floats
    indices: npt.NDArray[np.uint8]

    def weights(self) -> Floats:
        return np.asarray(self.centroids[self.indices], np.float32)


def share(values: Floats, bits: int) -> Shared:
    """At most 2^bits (1 to 8 bits) values for a layer, zero among them; a layer that has no more keeps its values."""
    alive = values != 0
    present = np.unique(values[alive])
    entries = present if present.size < 2**bits else cluster(values[alive], 2**bits - 1)
    indices = np.zeros(values.shape, np.uint8)
    indices[alive] = _nearest(entries.astype(np.float64), values[alive]) + 1
    return Shared(np.concatenate([np.zeros(1, np.float32), entries]), indices)


def cluster(values: Floats, count: int) -> Floats:
    """``count`` rising centroids of one-dimensional values; one that attracts no value stays where it began."""
    ordered = np.sort(values).astype(np.float64)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    centroids = np.linspace(ordered[0], ordered[-1], count)
    for _ in range(MAX_ROUNDS):
        # Values are sorted, so a centroid's own are one run of them, between midpoints.
        ends = np.searchsorted(ordered, (centroids[1:] + centroids[:-1]) / 2)
        ends = np.concatenate([[0], ends, [ordered.size]])
        sizes = np.diff(ends)
        means = np.where(sizes > 0, np.diff(sums[ends]) / np.maximum(sizes, 1), centroids)
        if np.array_equal(means, centroids):
            break
        centroids = means
    return centroids.astype(np.float32)


def _nearest(centroids: npt.NDArray[np.float64], values: Floats) -> npt.NDArray[np.intp]:
    return np.searchsorted((centroids[1:] + centroids[:-1]) / 2, values.astype(np.float64))
