"""Choosing how coarse a network may become on labelled pictures, by the points of top-1 accuracy that are lost.

A few hundred pictures tell accuracy to half a point, and the coarsest setting that holds on them would be a lucky draw. So a
setting also has to keep the probability of the right class on pictures that it was not calibrated on: they are parted in two
halves, and each is answered by what was calibrated on the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from model_registry.compression.calibration import Calibration, joined
from model_registry.compression.divergence import log_probabilities
from model_registry.compression.expectation import halved
from model_registry.compression.judges import finite
from model_registry.compression.pictures import MAX_PICTURES, calibrated_on, preprocessing_of
from model_registry.compression.pipeline import SourceNetwork, compress
from model_registry.compression.rounding import Compensated
from model_registry.compression.settling import settle
from model_registry.compression.trials import Point, Progress, Search, Trials, settings_row, travelling
from model_registry.contract.content import Content
from model_registry.models.evaluation import Sample, content_engine, labelled_logits, spread

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
HALVES = 2


def within_drop(
    network: SourceNetwork, samples: Sequence[Sample], max_drop: float, *, base: Content | None, progress: Progress
) -> Search:
    """The smallest artifact that loses at most ``max_drop`` points of top-1 on ``samples``, and is expected to elsewhere.

    Raises ManifestRefused without preprocessing, ModelUnusable for answers that are no numbers, or a label without an answer.
    """
    asked = _Asked(network, samples)

    def calibrated(half: int) -> Calibration:
        return asked.calibrated_on(half, lambda share, step: progress((half + share) / (2 * HALVES), step))

    halves = [calibrated(half) for half in range(min(HALVES, len(samples)))]
    row = settings_row(joined(halves))
    told: dict[int, Point] = {}

    def promises(number: int) -> bool:
        """With the setting calibrated on each half of the pictures, every picture is answered by what has not seen it."""
        progress(0.5 + 0.25 * len(told) / len(row).bit_length(), "trying settings on halves")
        name, setting = list(row.items())[number]
        ways = [replace(setting, calibration=half) for half in halves] if isinstance(setting, Compensated) else [setting]
        made = [compress(network, way, base=base) for way in ways]
        unseen = asked.unseen(made[0], made[-1])
        fall, chance = asked.before.fall_to(unseen)
        size = max(travelling(content, base) for content in made)
        told[number] = Point(f"{name}, halves", size, asked.before.lost_in(unseen), fall)
        # No setting does no harm at all: less than one of the pictures, give or take what chance does, is none.
        return fall <= max(max_drop, 100 / len(samples) + chance)

    def finish(content: Content) -> Content:
        """Few answers that turned by chance are no reason for a finer setting."""
        bias = list(halves[0].layers.values())[-1].layer.bias
        allowed = max_drop / 100 * len(samples)
        return settle(content, bias, asked.logits, exact=asked.exact, labels=asked.labels, allowed=allowed) if bias else content

    trials = Trials(network, base, row, lambda share, step: progress((1 + share) / 2, step), finish)
    found = trials.smallest(asked.lost_in, max_drop, lambda _: halved(len(row), promises))
    return found.with_points(told.values())


class _Asked:
    """Labelled pictures that are shown to one content after the other, to each of them once."""

    def __init__(self, network: SourceNetwork, samples: Sequence[Sample]) -> None:
        self._network, self._samples, self._preprocessing = network, samples, preprocessing_of(network)
        exact, self.labels = labelled_logits(content_engine(network.exact()), self._preprocessing, samples)
        self.exact = finite(exact)
        self.before = Answers.of(self.exact, self.labels)
        self._known: dict[str, Floats] = {}

    def calibrated_on(self, half: int, progress: Progress) -> Calibration:
        """What the layers see on every second picture."""
        paths = spread([sample.path for sample in self._samples[half::HALVES]], MAX_PICTURES // HALVES)
        return calibrated_on(self._network, paths, progress)

    def logits(self, content: Content) -> Floats:
        if content.sha256 not in self._known:
            self._known[content.sha256] = labelled_logits(content_engine(content), self._preprocessing, self._samples)[0]
        return self._known[content.sha256]

    def _answers(self, content: Content) -> Answers:
        return Answers.of(self.logits(content), self.labels)

    def lost_in(self, content: Content) -> float:
        """Points of accuracy."""
        return self.before.lost_in(self._answers(content))

    def unseen(self, first: Content, second: Content) -> Answers:
        """To all pictures, when the contents were calibrated on the first and on the second half."""
        are_first = np.arange(self.labels.size) % HALVES == 0
        return self._answers(second).where(are_first, self._answers(first))


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """To labelled pictures: whether the first answer is ``right``, and how ``likely`` the right one is said to be."""

    right: npt.NDArray[np.bool_]
    likely: Doubles

    @classmethod
    def of(cls, logits: Floats, labels: npt.NDArray[np.intp]) -> Answers:
        """Logits (pictures, classes) and labels (pictures)."""
        likely = np.exp(log_probabilities(logits))[np.arange(labels.size), labels]
        return cls(logits.argmax(axis=1) == labels, likely)

    def where(self, chosen: npt.NDArray[np.bool_], others: Answers) -> Answers:
        """These for the ``chosen`` pictures, ``others`` for the rest."""
        return Answers(np.where(chosen, self.right, others.right), np.where(chosen, self.likely, others.likely))

    def lost_in(self, after: Answers) -> float:
        """Points of accuracy. A few answers that turn make it jump."""
        return round(100 * float(self.right.mean() - after.right.mean()), 6)

    def fall_to(self, after: Answers) -> tuple[float, float]:
        """Points by which the right answer becomes less likely, and its standard error.

        That is steadier than accuracy as a network gets worse.
        """
        fall = 100 * (self.likely - after.likely)
        return round(float(fall.mean()), 6), float(fall.std()) / math.sqrt(fall.size)
