"""Choosing how coarse a network may become, by running it on the user's pictures instead of by rule.

``calibrate`` needs no labels: it bounds the divergence between the answers of the float network and of the compressed one.
``within_drop`` needs them: it bounds the points of top-1 accuracy that are lost. Both try a fixed row of settings, keep the
smallest artifact that stays within the bound, and report every point they saw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model_registry.compression.pipeline import SourceNetwork, compress
from model_registry.compression.quantization import Setting
from model_registry.contract.content import Content
from model_registry.contract.errors import ManifestRefused
from model_registry.contract.full import encode_full
from model_registry.contract.preprocessing import Preprocessing
from model_registry.models.evaluation import Sample, all_logits, content_engine, evaluate, pictures, spread

Floats = npt.NDArray[np.float32]
Progress = Callable[[float, str], None]
# Fine to coarse; None is lossless, the way out that always holds.
SETTINGS: tuple[Setting | None, ...] = (
    None,
    Setting(),
    *(Setting(step, keep_codebooks=False) for step in (0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8)),
)
# A mean divergence of a hundredth of a nat changes about one answer in twenty where the network itself is undecided.
MAX_DIVERGENCE = 0.01
MAX_CALIBRATION_PICTURES = 200


@dataclass(frozen=True, slots=True)
class Point:
    """One setting as it was seen. ``damage``: mean divergence in nats, or points of top-1 lost."""

    setting: str
    bytes: int
    damage: float


@dataclass(frozen=True, slots=True, eq=False)
class Search:
    """The content that was chosen, and all points, fine to coarse."""

    content: Content
    points: tuple[Point, ...]


def calibrate(network: SourceNetwork, folder: Path, *, base: Content | None, progress: Progress) -> Search:
    """The smallest artifact whose answers on up to 200 pictures of ``folder`` diverge by at most 0.01 nats on average.

    Raises ManifestRefused without preprocessing, MalformedArtifact without pictures.
    """
    preprocessing = _preprocessing(network)
    paths = spread(pictures(folder), MAX_CALIBRATION_PICTURES)
    reference = all_logits(content_engine(network.exact()), preprocessing, paths)

    def divergence(content: Content) -> float:
        return mean_divergence(reference, all_logits(content_engine(content), preprocessing, paths))

    return _coarsest(network, divergence, MAX_DIVERGENCE, base, progress)


def within_drop(
    network: SourceNetwork, samples: Sequence[Sample], max_drop: float, *, base: Content | None, progress: Progress
) -> Search:
    """The smallest artifact that loses at most ``max_drop`` points of top-1 on ``samples``. Raises ManifestRefused."""
    preprocessing = _preprocessing(network)
    reference = evaluate(content_engine(network.exact()), preprocessing, samples).top1

    def drop(content: Content) -> float:
        return 100 * (reference - evaluate(content_engine(content), preprocessing, samples).top1)

    return _coarsest(network, drop, max_drop, base, progress)


def mean_divergence(reference: Floats, found: Floats) -> float:
    """Kullback-Leibler divergence from softmax(reference) to softmax(found), mean over rows, in nats."""
    p, q = _log_softmax(reference), _log_softmax(found)
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


def _coarsest(
    network: SourceNetwork, damage: Callable[[Content], float], bound: float, base: Content | None, progress: Progress
) -> Search:
    """Walk from fine to coarse until the first setting beyond the bound."""
    best: tuple[int, Content] | None = None
    points: list[Point] = []
    for number, setting in enumerate(SETTINGS):
        progress(number / len(SETTINGS), _label(setting))
        content = compress(network, setting, base=base)
        size = len(encode_full(content))
        # A larger artifact than the best is no candidate, however true it is.
        if best is not None and size >= best[0]:
            continue
        points.append(Point(_label(setting), size, round(damage(content), 6)))
        # Lossless holds by definition; an engine's rounding must not send the search away empty-handed.
        if setting is not None and not points[-1].damage <= bound:
            break
        best = (size, content)
    assert best is not None
    return Search(best[1], tuple(points))


def _label(setting: Setting | None) -> str:
    if setting is None:
        return "lossless"
    return "default" if setting.keep_codebooks else f"step {setting.step:g}"


def _preprocessing(network: SourceNetwork) -> Preprocessing:
    if network.manifest.preprocessing is None:
        raise ManifestRefused("pictures cannot be shown to a network without preprocessing", remedy="give it with --preprocess")
    return network.manifest.preprocessing


def _log_softmax(logits: Floats) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
