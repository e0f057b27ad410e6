"""Settings chosen on labelled pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model_registry.compression import accuracy, pipeline
from model_registry.compression.accuracy import Answers
from model_registry.compression.calibration import Calibration
from model_registry.compression.pictures import calibrated_on
from model_registry.compression.pipeline import SourceNetwork
from model_registry.compression.rounding import Compensated
from model_registry.compression.trials import PRICES, Progress
from model_registry.contract.content import Content
from model_registry.contract.errors import ModelUnusable
from model_registry.contract.full import encode_full
from model_registry.models.evaluation import Sample, content_engine, labelled_logits, read_picture
from tests.registry.compression.conftest import quiet


def samples_of(network: SourceNetwork, folder: Path) -> list[Sample]:
    """The pictures, labelled with what the network says."""
    engine = content_engine(network.exact())
    assert network.manifest.preprocessing is not None
    paths = sorted(folder.iterdir())
    labels = [int(engine(network.manifest.preprocessing.apply(read_picture(path))).argmax()) for path in paths]
    return [Sample(path, label) for path, label in zip(paths, labels, strict=True)]


def test_no_drop_allowed_means_none_seen_and_none_expected_on_pictures_that_were_not_calibrated_on(
    network: SourceNetwork, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibrated: list[list[Path]] = []

    def noted(network: SourceNetwork, paths: list[Path], progress: Progress) -> Calibration:
        calibrated.append(list(paths))
        return calibrated_on(network, paths, progress)

    monkeypatch.setattr(accuracy, "calibrated_on", noted)
    samples, preprocessing = samples_of(network, folder), network.manifest.preprocessing
    assert preprocessing is not None
    found = accuracy.within_drop(network, samples, 0.0, base=None, progress=quiet)
    chosen = next(p for p in found.points if p.bytes == len(encode_full(found.content)))
    assert chosen.damage <= 0
    assert calibrated == [[s.path for s in samples[0::2]], [s.path for s in samples[1::2]]]
    told = next(point for point in found.points if point.setting.startswith("price") and point.expected is not None)
    price = float(told.setting.removeprefix("price ").removesuffix(", halves"))

    def answers(content: Content) -> Answers:
        return Answers.of(*labelled_logits(content_engine(content), preprocessing, samples))

    halves = [pipeline.compress(network, Compensated(calibrated_on(network, paths), price)) for paths in calibrated]
    unseen = answers(halves[1]).where(np.arange(len(samples)) % 2 == 0, answers(halves[0]))
    before = answers(network.exact())
    assert told.bytes == max(len(encode_full(content)) for content in halves)
    assert (told.damage, told.expected) == (before.lost_in(unseen), before.fall_to(unseen)[0])


def test_where_everything_may_be_lost_the_coarsest_setting_is_taken(network: SourceNetwork, folder: Path) -> None:
    found = accuracy.within_drop(network, samples_of(network, folder), 100.0, base=None, progress=quiet)
    assert found.content.manifest.lineage.recipe["price"] == PRICES[-1]


def test_one_labelled_picture_is_better_than_none(network: SourceNetwork, folder: Path) -> None:
    found = accuracy.within_drop(network, samples_of(network, folder)[:1], 0.0, base=None, progress=quiet)
    assert found.bytes < found.points[0].bytes


def test_a_network_that_answers_with_no_numbers_is_refused(network: SourceNetwork, folder: Path) -> None:
    broken = replace(network, weights={name: np.float32(1e30) * value for name, value in network.weights.items()})
    with pytest.raises(ModelUnusable, match="not finite"):
        accuracy.within_drop(broken, [Sample(path, 0) for path in folder.iterdir()], 0.0, base=None, progress=quiet)
