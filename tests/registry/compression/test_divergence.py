"""How far answers lie apart."""

from __future__ import annotations

import numpy as np
import pytest

from model_registry.compression.divergence import (
    are_comparable,
    divergences,
    log_probabilities,
    mean_divergence,
    on_shared_classes,
    telling_temperature,
    total_divergence,
)


def test_divergence_is_zero_for_equal_answers_and_grows_with_the_difference() -> None:
    logits = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    assert mean_divergence(logits, logits) == 0
    near, far = (mean_divergence(logits, logits + by * np.eye(5, 4, dtype=np.float32)) for by in (0.1, 1.0))
    assert 0 < near < far


def test_a_network_that_is_sure_of_everything_is_softened_until_damage_shows() -> None:
    generator = np.random.default_rng(0)
    undecided = generator.standard_normal((50, 10)).astype(np.float32)
    sure = 100 * undecided
    damaged = sure + 20 * generator.standard_normal(sure.shape).astype(np.float32)
    temperature = telling_temperature([sure])
    assert telling_temperature([undecided]) == 1
    assert temperature > 10
    # Where only sure answers are looked at, the plain divergence sees next to nothing.
    surest = np.argsort(-(np.sort(sure)[:, -1] - np.sort(sure)[:, -2]))[:10]
    assert mean_divergence(sure[surest], damaged[surest]) < 1e-6
    assert mean_divergence(sure[surest], damaged[surest], temperature=temperature) > 1e-4


def test_answers_that_hardly_differ_do_not_diverge_by_less_than_nothing() -> None:
    """As rounding would have it for about half of these."""
    rng = np.random.default_rng(0)
    logits = (40 * rng.standard_normal((100, 6))).astype(np.float32)
    assert (divergences(logits, logits + np.float32(1e-6) * rng.standard_normal((100, 6)).astype(np.float32)) >= 0).all()


def test_a_network_with_one_output_needs_no_softening() -> None:
    assert telling_temperature([np.ones((3, 1), np.float32)]) == 1


def test_probabilities_say_the_same_as_their_logits() -> None:
    generator = np.random.default_rng(0)
    logits, others = generator.standard_normal((2, 20, 30)).astype(np.float32)
    shares, other_shares = (np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (logits, others))
    assert np.isclose(mean_divergence(shares, other_shares), mean_divergence(logits, others), rtol=1e-4)
    assert np.isclose(telling_temperature([9 * logits]), telling_temperature([9 * logits + 3]), rtol=1e-4)


def test_numbers_count_by_how_far_they_differ_among_pictures() -> None:
    generator = np.random.default_rng(0)
    for shape in ((400,), (400, 7, 5)):
        numbers = generator.standard_normal(shape).astype(np.float32)
        off = numbers + 0.1 * generator.standard_normal(shape).astype(np.float32)
        assert 0.004 < mean_divergence(numbers, off) < 0.006
        assert np.isclose(mean_divergence(50 + 1000 * numbers, 50 + 1000 * off), mean_divergence(numbers, off), rtol=1e-2)


def test_one_picture_and_constant_answers_have_a_divergence_as_well() -> None:
    assert mean_divergence(np.full(1, 4, np.float32), np.full(1, 5, np.float32)) == 1 / 32
    assert mean_divergence(np.zeros(5, np.float32), np.ones(5, np.float32)) == 0.5


def test_networks_with_more_classes_are_compared_on_those_that_both_have() -> None:
    rng = np.random.default_rng(0)
    more, fewer = (rng.standard_normal((5, classes)).astype(np.float32) for classes in (7, 4))
    (few, same), other = on_shared_classes([more, fewer], [fewer, fewer])
    np.testing.assert_array_equal(few, more[:, :4])
    np.testing.assert_array_equal([same, *other], [fewer, fewer, fewer])
    chances = np.exp(log_probabilities(more)).astype(np.float32)
    assert are_comparable([more], [fewer])
    assert not are_comparable([chances], [np.exp(log_probabilities(fewer)).astype(np.float32)])
    assert not are_comparable([chances], [fewer])
    assert are_comparable([chances], [chances])


@pytest.mark.parametrize(
    ("one", "other", "comparable"),
    [((5, 7), (5, 4), True), ((5,), (5,), True), ((5,), (5, 3), False), ((5, 2, 4), (5, 3, 4), False), ((5, 7), (5, 1), False)],
    ids=["more classes", "numbers", "a number and classes", "maps of other sizes", "a single class"],
)
def test_only_choices_may_have_another_size(one: tuple[int, ...], other: tuple[int, ...], comparable: bool) -> None:
    answers = [np.full(shape, -1, np.float32) for shape in (one, other)]
    assert are_comparable(answers[:1], answers[1:]) is comparable
    assert not are_comparable(answers[:1], [*answers[1:], *answers[1:]])


def test_all_outputs_count() -> None:
    logits, numbers = np.eye(3, dtype=np.float32) * 2, np.arange(3, dtype=np.float32)
    apart = total_divergence((logits, numbers), (logits[::-1], numbers + 1))
    assert np.isclose(apart, mean_divergence(logits, logits[::-1]) + mean_divergence(numbers, numbers + 1))
