"""A layer's few values."""

from __future__ import annotations

import numpy as np
import pytest

from model_registry.compression.weight_sharing import cluster, share


def pruned() -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(60, 70)).astype(np.float32)
    return np.where(np.abs(values) > 0.9, values, np.float32(0))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_layer_has_as_many_values_as_its_bits_say_and_zeros_stay_zero(bits: int) -> None:
    values = pruned()
    shared = share(values, bits).weights()
    assert np.unique(shared).size <= 2**bits
    assert (shared[values == 0] == 0).all()
    assert (shared[values != 0] != 0).all()
    assert np.square(shared - values).mean() < 4 ** -(bits - 1) * np.square(values).mean()


def test_what_is_shared_already_is_left_as_it_is() -> None:
    values = np.array([[0.5, 0.0, -2.0], [0.5, 3.0, 0.0]], np.float32)
    shared = share(values, 2)
    assert shared.centroids.tolist() == [0, -2, 0.5, 3]
    assert (shared.weights() == values).all()


def test_centroids_are_the_means_of_their_values() -> None:
    values = np.random.default_rng(1).laplace(size=4000).astype(np.float32)
    centroids = cluster(values, 15)
    assert (np.diff(centroids) > 0).all()
    nearest = np.abs(values[:, np.newaxis] - centroids).argmin(axis=1)
    for index in np.unique(nearest):
        assert values[nearest == index].mean() == pytest.approx(centroids[index], abs=0.02)


def test_a_layer_without_weights_left() -> None:
    assert not share(np.zeros((3, 3), np.float32), 6).weights().any()
