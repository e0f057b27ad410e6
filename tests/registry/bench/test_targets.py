"""A target is reached by what was measured, under its conditions, and not measured is not reached."""

from __future__ import annotations

import pytest

from model_registry.bench.answers import Accuracy, Delivered
from model_registry.bench.comparison import CONTENT, EXACT, FLOAT16, FLOAT32, OURS, Row
from model_registry.bench.measuring import Coding, Cost
from model_registry.bench.scenarios import SCENARIOS
from model_registry.bench.targets import Check, verdict
from model_registry.contract.limits import MIB

CHEAP = Cost(0.01, MIB)


def coding(coder: str, size: int, *, decode: Cost = CHEAP, decodes: bool = True) -> Coding:
    return Coding(coder, size, CHEAP, decode, decodes)


def row(name: str, codings: dict[str, tuple[Coding, ...]], *, lost: float = 0.0, shipped: float = 0.6) -> Row:
    scenario = next(scenario for scenario in SCENARIOS if scenario.name == name)
    seen = Accuracy(500, 0.6, shipped)
    accuracy = {"all pictures": seen} if name.startswith("imagenet") else {}
    delivered = None if accuracy else Delivered(seen, seen, 0.0, lost, lost)
    return Row(scenario, codings, (), {}, lost, (), 0.0, accuracy, delivered)


def check(start: str, *rows: Row) -> Check:
    return next(found for found in verdict(rows) if found.target.startswith(start))


def test_nothing_measured_is_neither_reached_nor_missed() -> None:
    for found in verdict([]):
        assert (found.figure, found.reached, found.aim_reached) == (None, None, None)


def test_a_full_artifact_counts_only_within_its_loss() -> None:
    small = row("imagenet-half-point", {OURS: (coding("full", 300_000),)}, shipped=0.596)
    large = row("imagenet", {OURS: (coding("full", 400_000),)})
    strict, loose = check("full SqueezeNet", small, large), check("full, at most", small, large)
    assert (strict.figure, strict.reached, strict.aim_reached) == (400_000, True, False)
    assert (loose.figure, loose.reached, loose.aim_reached) == (300_000, True, True)


@pytest.mark.parametrize(("lost", "reached"), [(0.009, True), (0.02, False)])
def test_a_small_delta_that_delivers_too_little_reaches_nothing(lost: float, reached: bool) -> None:
    found = check("classifier only", row("classifier-only", {OURS: (coding("delta model", 5_000),)}, lost=lost))
    assert (found.figure, found.reached, found.aim_reached) == (5_000, reached, reached)


def test_the_worst_of_the_updates_is_judged() -> None:
    slight = row("all-layers-slightly", {OURS: (coding("delta model", 15_000),)})
    more = row("all-layers-more", {OURS: (coding("delta model", 40_000),)})
    found = check("all layers", slight, more)
    assert (found.figure, found.reached) == (40_000, False)
    assert "all-layers-more" in found.note


@pytest.mark.parametrize("more", [{}, {OURS: (coding("delta model", 9_000, decodes=False),)}])
def test_a_target_about_two_updates_is_not_reached_by_one(more: dict[str, tuple[Coding, ...]]) -> None:
    slight = row("all-layers-slightly", {OURS: (coding("delta model", 15_000),)})
    for rows in ([slight], [slight, row("all-layers-more", more)]):
        assert check("all layers", *rows).reached is None


def test_ratios_take_the_best_tool_and_the_smallest_of_ours() -> None:
    codings = {
        OURS: (coding("full", 90_000), coding("delta model", 10_000), coding("delta zstd", 12_000)),
        CONTENT: (coding("bsdiff4", 25_000), coding("xz", 80_000), coding("broken", 1, decodes=False)),
        FLOAT16: (coding("bsdiff4", 1_000_000),),
        EXACT: (coding("delta model", 500_000),),
        FLOAT32: (coding("xz", 600_000),),
    }
    weekly = row("signs-weekly", codings, lost=0.04)
    assert check("same content", weekly).figure == pytest.approx(2.5)
    assert check("dense network", weekly).figure == pytest.approx(0.01)
    exact = check("exact float32, dense", weekly)
    assert exact.figure == pytest.approx(1.2)
    assert exact.reached is False
    assert check("exact float32, all", weekly).reached


def test_slow_or_large_decoding_is_told_with_its_scenario() -> None:
    slow = row("biases", {OURS: (coding("full", 9, decode=Cost(0.2, 80 * MIB)), coding("delta model", 5))})
    assert check("decode a full artifact, CPU", slow).figure == pytest.approx(200)
    assert check("decode a full artifact, memory", slow).reached is False
    assert check("decode a delta, CPU", slow).reached
    assert check("decode a delta, CPU", slow).note == "biases"


def test_an_artifact_that_does_not_decode_is_a_failure() -> None:
    wrong = row("biases", {OURS: (coding("delta model", 5, decodes=False),)})
    found = check("artifacts that do not decode", wrong)
    assert (found.figure, found.reached) == (1, False)
    assert "delta model does not decode" in found.note
