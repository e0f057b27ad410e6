"""What an artifact does to a network's answers, on pictures that neither teaching nor calibration saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model_registry.compression.divergence import mean_divergence, on_shared_classes
from model_registry.contract.content import Content
from model_registry.contract.preprocessing import Preprocessing
from model_registry.models.evaluation import Sample, all_logits, content_engine

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """``of_float`` and ``shipped``: top-1 shares of the float network and of the artifact on ``images`` pictures."""

    images: int
    of_float: float
    shipped: float


@dataclass(frozen=True, slots=True)
class Delivered:
    """What an update brought. ``lost``: KL(new || shipped) / KL(new || base as vehicles have it).

    ``lost_of_float`` has the float base below the line instead. A base with other classes is compared on those that both have.
    """

    before: Accuracy
    after: Accuracy
    divergence: float
    lost: float
    lost_of_float: float


class Judge:
    """Asks networks about one set of labelled pictures, each network once."""

    def __init__(self, samples: Sequence[Sample], preprocessing: Preprocessing) -> None:
        self._paths = [sample.path for sample in samples]
        self._labels = np.array([sample.label for sample in samples])
        self._preprocessing = preprocessing
        self._known: dict[str, Floats] = {}

    def accuracy(self, exact: Content, shipped: Content) -> Accuracy:
        return Accuracy(len(self._paths), self._top1(exact), self._top1(shipped))

    def divergence(self, exact: Content, shipped: Content) -> float:
        """KL(exact || shipped) in nats."""
        [wanted], [found] = on_shared_classes([self._logits(exact)], [self._logits(shipped)])
        return mean_divergence(wanted, found)

    def delivered(self, base_exact: Content, base: Content, exact: Content, shipped: Content) -> Delivered:
        divergence = self.divergence(exact, shipped)
        return Delivered(
            self.accuracy(base_exact, base),
            self.accuracy(exact, shipped),
            divergence,
            self._lost(divergence, exact, base),
            self._lost(divergence, exact, base_exact),
        )

    def _lost(self, divergence: float, exact: Content, base: Content) -> float:
        return divergence / max(self.divergence(exact, base), 1e-12)

    def _top1(self, content: Content) -> float:
        return float((self._logits(content).argmax(axis=1) == self._labels).mean())

    def _logits(self, content: Content) -> Floats:
        if content.sha256 not in self._known:
            self._known[content.sha256] = all_logits(content_engine(content), self._preprocessing, self._paths)
        return self._known[content.sha256]
