"""How far compressed networks answer from the float network, on pictures that they were not calibrated on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model_registry.compression.divergence import are_comparable, on_shared_classes, telling_temperature, total_divergences
from model_registry.contract.content import Content
from model_registry.contract.errors import ModelUnusable
from model_registry.contract.preprocessing import Preprocessing
from model_registry.contract.session import Session
from model_registry.models.evaluation import answers_to, picture_input, prepared

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
# Divergences of the answers as they are, and of those at the temperature.
PLAIN, TELLING = 0, 1


class Judges:
    """Pictures that are shown to one network after the other, each of them once.

    ``temperature``: the one at which the float network is undecided, found on these pictures unless it is given.
    Raises ModelUnusable when the float network's answers are no numbers, or it takes more than one picture.
    """

    def __init__(
        self,
        exact: Content,
        preprocessing: Preprocessing,
        paths: Sequence[Path],
        *,
        temperature: float | None = None,
        progress: Callable[[float, str], None] = lambda *_: None,
    ) -> None:
        self._preprocessing, self._paths, self._progress = preprocessing, paths, progress
        self._reference = tuple(finite(answers) for answers in self._answers(exact))
        self.temperature = temperature or telling_temperature(self._reference)
        self._known: dict[str, Doubles] = {}

    def can_compare(self, content: Content) -> bool:
        """Whether a network that takes the same pictures tells the same of them, though maybe of more or fewer classes."""
        answers = self._answers(content)
        comparable = are_comparable(self._reference, answers)
        if comparable:
            self._known[content.sha256] = self._apart(answers)
        return comparable

    def each(self, content: Content) -> Doubles:
        """Divergences from the float network in nats, (2, pictures): ``PLAIN`` and ``TELLING``.

        A network with other classes is compared on those that both have.
        """
        if content.sha256 not in self._known:
            self._known[content.sha256] = self._apart(self._answers(content))
        return self._known[content.sha256]

    def divergences(self, content: Content) -> Doubles:
        """The same, mean over the pictures: (2)."""
        return np.asarray(self.each(content).mean(axis=1))

    def _apart(self, answers: tuple[Floats, ...]) -> Doubles:
        pair = on_shared_classes(self._reference, answers)
        return np.stack([total_divergences(*pair, temperature=t) for t in (1.0, self.temperature)])

    def _answers(self, content: Content) -> tuple[Floats, ...]:
        name = picture_input(content.manifest)
        shown = prepared(self._preprocessing, self._paths, self._progress)
        return answers_to(Session(content), ({name: picture} for picture in shown))


class Everyone:
    """All pictures of several ``judges`` together."""

    def __init__(self, judges: Sequence[Judges]) -> None:
        self._judges = judges

    def each(self, content: Content) -> Doubles:
        return np.concatenate([judges.each(content) for judges in self._judges], axis=1)

    def divergences(self, content: Content) -> Doubles:
        return np.asarray(self.each(content).mean(axis=1))


def finite(logits: Floats) -> Floats:
    """Answers of the float network, which all others are measured by."""
    if not np.isfinite(logits).all():
        raise ModelUnusable(
            "the network's answers to some of the pictures are not finite numbers",
            remedy="check its weights, and whether the preprocessing is the one that it was trained with",
        )
    return logits
