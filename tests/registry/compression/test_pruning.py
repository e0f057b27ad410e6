"""Which weights go."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from model_registry.compression.pruning import density, masks, schedule


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "wide": rng.normal(scale=10, size=(40, 50)).astype(np.float32),
        "narrow": rng.normal(scale=0.01, size=(30, 20)).astype(np.float32),
    }


@pytest.mark.parametrize("wanted", [0.9, 0.33, 0.05])
def test_the_wanted_share_stays_and_it_is_the_largest_of_each_layer(wanted: float) -> None:
    kept = masks(weights(), wanted)
    total = sum(mask.size for mask in kept.values())
    assert sum(int(mask.sum()) for mask in kept.values()) == round(wanted * total)
    for name, values in weights().items():
        assert np.abs(values[kept[name]]).min() >= np.abs(values[~kept[name]]).max()


def test_small_layers_keep_more_and_scale_does_not_matter() -> None:
    kept = masks(weights(), 0.33)
    assert kept["narrow"].mean() > kept["wide"].mean() > 0.2
    scaled = masks({name: value * np.float32(2.0**5) if name == "narrow" else value for name, value in weights().items()}, 0.33)
    assert all((scaled[name] == kept[name]).all() for name in kept)


def test_zeros_stay_pruned_and_a_sparse_layer_is_not_pruned_for_being_sparse() -> None:
    given = weights()
    given["narrow"][np.abs(given["narrow"]) < 0.01] = 0
    sparse = density({"narrow": given["narrow"]})
    kept = masks(given, 0.6)
    assert not kept["narrow"][given["narrow"] == 0].any()
    assert kept["narrow"].mean() > 0.8 * sparse


def test_among_equal_weights_exactly_as_many_go_as_asked_for() -> None:
    kept = masks({"flat": np.ones((10, 10), np.float32)}, 0.25)["flat"]
    assert kept.sum() == 25
    assert kept.ravel()[:25].all()


def test_no_layer_loses_everything() -> None:
    even, uneven = np.ones((5, 5), np.float32), np.eye(50, dtype=np.float32) + 1e-3
    for wanted in (0.01, 1e-6):
        kept = masks({"even": even, "uneven": uneven, "empty": np.zeros((2, 2), np.float32)}, wanted)
        assert kept["even"].any()
        assert kept["uneven"].any()
        assert not kept["empty"].any()


def test_the_way_down_is_gradual_and_ends_where_asked() -> None:
    steps = (1.0, *schedule(1.0, 0.1))
    assert steps[-1] == 0.1
    assert all(0.6 < after / before < 1 for before, after in pairwise(steps))
    assert schedule(0.3, 0.33) == ()
    assert schedule(0.34, 0.33) == (0.33,)
