"""A training moves what it says and nothing else, and makes the same weights again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from model_registry.bench.scenarios import TRAININGS, Moving, Phase, Pictures, Training
from model_registry.bench.training import Lesson, teach
from model_registry.models.checkpoints import Weights
from tests.registry.networks import CLASSES, random_weights

NAME = "squeezenet1_1"
HEAD = ("classifier.1.weight", "classifier.1.bias")
ALL = Training("start", Pictures.SIGNS, CLASSES, (Phase(1, 1e-3),), batch=4)


@pytest.fixture(scope="module")
def lesson() -> Lesson:
    generator = torch.Generator().manual_seed(0)
    return Lesson(torch.randn(8, 3, 40, 40, generator=generator), torch.arange(8) % CLASSES)


@pytest.fixture(scope="module")
def sparse() -> Weights:
    """Half of the weights are zero, and a layer shares few values."""
    return {
        key: np.where(np.abs(value) > np.median(np.abs(value)), np.round(value, 2), 0).astype(np.float32)
        if value.ndim > 1
        else value
        for key, value in random_weights(NAME).items()
    }


def moved(before: Weights, after: Weights) -> set[str]:
    return {key for key in before if not np.array_equal(before[key], after[key])}


def test_zeros_stay_zero_while_everything_else_may_move(lesson: Lesson, sparse: Weights) -> None:
    taught = teach(NAME, sparse, ALL, lesson)
    assert moved(sparse, taught) == set(sparse)
    for key, value in sparse.items():
        if value.ndim > 1:
            assert not taught[key][value == 0].any(), key


def test_a_dense_training_fills_zeros(lesson: Lesson, sparse: Weights) -> None:
    taught = teach(NAME, sparse, replace(ALL, moving=Moving.ALL), lesson)
    assert taught["features.12.squeeze.weight"][sparse["features.12.squeeze.weight"] == 0].any()


def test_only_the_keys_of_a_phase_move(lesson: Lesson, sparse: Weights) -> None:
    head = replace(ALL, phases=(Phase(1, 1e-3, ("classifier.*",)),))
    assert moved(sparse, teach(NAME, sparse, head, lesson)) == set(HEAD)
    biases = replace(ALL, phases=(Phase(1, 1e-3, ("*.bias",)),))
    assert moved(sparse, teach(NAME, sparse, biases, lesson)) == {key for key in sparse if key.endswith(".bias")}


def test_codebooks_move_and_places_stay(lesson: Lesson, sparse: Weights) -> None:
    taught = teach(NAME, sparse, replace(ALL, moving=Moving.CODEBOOKS), lesson)
    assert moved(sparse, taught) == {key for key in sparse if key.endswith(".weight")}
    for key in moved(sparse, taught):
        pairs = np.unique(np.stack([sparse[key].ravel(), taught[key].ravel()]), axis=1)
        assert len(np.unique(pairs[0])) == pairs.shape[1], f"{key}: weights that shared a value no longer do"
        assert not taught[key][sparse[key] == 0].any()


def test_pruning_takes_the_smallest_and_keeps_them_away(lesson: Lesson) -> None:
    dense = random_weights(NAME)
    taught = teach(NAME, dense, replace(ALL, pruned=0.2), lesson)
    key = "features.12.expand3x3.weight"
    gone = taught[key] == 0
    assert gone.mean() == pytest.approx(0.2, abs=0.01)
    assert np.abs(dense[key])[gone].max() <= np.abs(dense[key])[~gone].min()


def test_a_class_more_keeps_the_rows_of_the_others(lesson: Lesson, sparse: Weights) -> None:
    untaught = replace(ALL, classes=CLASSES + 1, phases=())
    grown = teach(NAME, sparse, untaught, lesson)
    assert grown[HEAD[0]].shape[0] == CLASSES + 1
    assert np.array_equal(grown[HEAD[0]][:CLASSES], sparse[HEAD[0]])
    anew = teach(NAME, sparse, replace(untaught, new_head=True), lesson)
    assert not np.array_equal(anew[HEAD[0]][:CLASSES], sparse[HEAD[0]])


def test_the_same_seed_makes_the_same_weights(lesson: Lesson, sparse: Weights) -> None:
    training = replace(ALL, dropout=True)
    first = teach(NAME, sparse, training, lesson)
    assert moved(first, teach(NAME, sparse, training, lesson)) == set()
    assert moved(first, teach(NAME, sparse, replace(training, seed=9), lesson))


def test_every_network_stands_after_the_one_it_starts_from() -> None:
    seen: set[str | None] = {None}
    for name, training in TRAININGS.items():
        assert training.start in seen, name
        seen.add(name)
