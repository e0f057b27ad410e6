"""Choosing how coarse a network may become, by running it on the user's pictures instead of by rule.

``calibrate`` needs no labels: it bounds the divergence between the answers of the float network and of the compressed one.
``within_drop`` needs them: it bounds the points of top-1 accuracy that are lost. Both halve a fixed row of settings, fine to
coarse, keep the smallest artifact that they saw within the bound, and report every point. The settings are prices of a bit
under error compensation. With a base, the artifact is the delta, and ``calibrate`` bounds what it loses: the divergence that
is left over the divergence that the update was to bring, KL(new || shipped) / KL(new || base).

Divergences that bound are also taken at the temperature at which the network is undecided: on the pictures that it was trained
on a softmax hardly shows what hurts on others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model_registry.compression.calibration import Calibration, calibrate_layers
from model_registry.compression.divergence import mean_divergence, telling_temperature
from model_registry.compression.pipeline import SourceNetwork, compress, untouched
from model_registry.compression.quantization import Setting
from model_registry.compression.rounding import Compensated
from model_registry.compression.updates import LOST_LIMIT
from model_registry.contract.content import Content
from model_registry.contract.delta import Codec
from model_registry.contract.errors import ManifestRefused
from model_registry.contract.full import encode_full
from model_registry.contract.preprocessing import Preprocessing
from model_registry.contract.tensors import Encoding
from model_registry.deltas import make_delta
from model_registry.models.evaluation import (
    Sample,
    all_logits,
    content_engine,
    evaluate,
    pictures,
    read_picture,
    spread,
)
from model_registry.models.graphs import output_classes

Doubles = npt.NDArray[np.float64]
Progress = Callable[[float, str], None]
AnySetting = Setting | Compensated | None
# Nats a bit, a third of an octave apart: from hardly any change to a tenth of the size of a careful setting. Finer than all of
# them are the ways out: None, which is lossless and always holds, and the default.
PRICES = tuple(float(f"{1e-10 * 2 ** (n / 3):.3g}") for n in range(45))
# A mean divergence of a hundredth of a nat changes about one answer in twenty where the network itself is undecided.
MAX_DIVERGENCE = 0.01
MAX_CALIBRATION_PICTURES = 200
# What is lost on other pictures than those that were looked at may be this much more.
HELD_OUT = 0.8
# Accuracy on a few hundred pictures goes up and down: this many coarser settings are tried, two octaves of the price.
BEYOND = 6
# A delta above this part of a full artifact mends what the base's compression did rather than bring the update.
REPAIRS = 10


@dataclass(frozen=True, slots=True)
class Point:
    """One setting as it was seen. ``damage``: mean divergence in nats, or points of top-1 lost."""

    setting: str
    bytes: int
    damage: float


@dataclass(frozen=True, slots=True, eq=False)
class Search:
    """The content that was chosen, the ``bytes`` that travelled for it when it was tried, and all points, fine to coarse."""

    content: Content
    bytes: int
    points: tuple[Point, ...]


def calibrate(
    network: SourceNetwork, folder: Path, *, base: Content | None, progress: Progress, max_lost: float = LOST_LIMIT
) -> Search:
    """The smallest artifact that is true on up to 200 pictures of ``folder``.

    Without a base: the full artifact whose answers diverge by at most 0.01 nats on average. With one: the delta that loses at
    most the share ``max_lost`` of the update, here a fifth less so that it holds elsewhere, counted above the *noise*: what
    the base's encoding of untouched tensors costs. Where that takes a tenth of a full artifact, because a coarse base errs
    more than the update brings, noise is what compressing the new network like the base's line loses anyway. Where the base
    answers another question (other classes, other input), the bound is 0.01 nats.
    Raises ManifestRefused without preprocessing, MalformedArtifact without pictures.
    """
    preprocessing = _preprocessing(network)
    paths = spread(pictures(folder), MAX_CALIBRATION_PICTURES)
    reference = all_logits(content_engine(network.exact()), preprocessing, paths)

    temperatures = 1.0, telling_temperature(reference)

    @cache
    def divergences(content: Content) -> Doubles:
        answers = all_logits(content_engine(content), preprocessing, paths)
        return np.array([mean_divergence(reference, answers, temperature=t) for t in temperatures])

    measured, settings = _settings(network, paths, progress)
    trials = _Trials(network, base, settings, progress)
    update = divergences(base) if base is not None and _comparable(base, network) else np.zeros(2)
    if base is None or not update.all():
        return trials.coarsest(lambda content: max(divergences(content)), MAX_DIVERGENCE)
    bound, noise, like = HELD_OUT * max_lost, divergences(_kept(network, base)), _like(base)

    def share(content: Content) -> float:
        return float((np.maximum(divergences(content) - noise, 0) / np.maximum(update - noise, bound * update)).max())

    found = trials.coarsest(share, bound)
    if REPAIRS * found.bytes > len(encode_full(base)):
        noise = np.maximum(noise, divergences(compress(network, _setting_like(like, measured))))
        found = trials.coarsest(share, bound)
    lost = float((divergences(found.content) / update)[0])
    outcome = {"lost": round(lost, 4), "noise": round(min(float((noise / update)[0]), lost), 4), "like": like}
    return replace(found, content=_with_outcome(found.content, outcome))


def _kept(network: SourceNetwork, base: Content) -> Content:
    """The new network with what it shares with the base as the base has it: that much no delta mends."""
    kept = untouched(network, base)
    exact = network.exact()
    return Content(exact.manifest, exact.graph, tuple(kept.get(tensor.name, tensor) for tensor in exact.tensors))


def _like(base: Content) -> dict[str, Any]:
    """How coarse the line of models is: the setting of the release that had no base; nothing where codebooks were kept."""
    if any(tensor.encoding is Encoding.CODEBOOK for tensor in base.tensors):
        return {}
    recipe = base.manifest.lineage.recipe
    like = recipe.get("like", recipe)
    return {key: like[key] for key in ("price", "step", "codebooks") if key in like} if isinstance(like, dict) else {}


def _setting_like(like: dict[str, Any], measured: Calibration) -> AnySetting:
    match like:
        case {"price": float(price)} if price > 0:
            return Compensated(measured, price)
        case {"step": float(step), "codebooks": bool(codebooks)} if step > 0:
            return Setting(step, keep_codebooks=codebooks)
        case _:
            return None


def _comparable(base: Content, network: SourceNetwork) -> bool:
    """Whether both take the same pictures and choose among the same classes."""
    ours = (network.manifest.inputs, network.manifest.preprocessing, output_classes(network.graph))
    return (base.manifest.inputs, base.manifest.preprocessing, output_classes(base.graph)) == ours


def _with_outcome(content: Content, outcome: dict[str, Any]) -> Content:
    """The lineage tells the loss that was measured on answers, instead of the one computed from weights."""
    lineage = content.manifest.lineage
    lineage = replace(lineage, recipe={**lineage.recipe, **outcome})
    return Content(replace(content.manifest, lineage=lineage), content.graph, content.tensors)


def within_drop(
    network: SourceNetwork, samples: Sequence[Sample], max_drop: float, *, base: Content | None, progress: Progress
) -> Search:
    """The smallest artifact that loses at most ``max_drop`` points of top-1 on ``samples``. Raises ManifestRefused."""
    preprocessing = _preprocessing(network)
    reference = evaluate(content_engine(network.exact()), preprocessing, samples).top1

    def drop(content: Content) -> float:
        return 100 * (reference - evaluate(content_engine(content), preprocessing, samples).top1)

    paths = spread([sample.path for sample in samples], MAX_CALIBRATION_PICTURES)
    _, settings = _settings(network, paths, progress)
    return _Trials(network, base, settings, progress).coarsest(drop, max_drop, beyond=BEYOND)


def _settings(network: SourceNetwork, paths: Sequence[Path], progress: Progress) -> tuple[Calibration, tuple[AnySetting, ...]]:
    """What may be chosen, fine to coarse; measures the network on the pictures."""
    preprocessing, name = _preprocessing(network), network.manifest.inputs[0].name
    requests = [{name: preprocessing.apply(read_picture(path))} for path in paths]
    measured = calibrate_layers(network.exact(), requests, progress=lambda share, step: progress(share / 2, step))
    return measured, (None, Setting(), *(Compensated(measured, price) for price in PRICES))


class _Trials:
    """The row of settings, each compressed at most once."""

    def __init__(
        self, network: SourceNetwork, base: Content | None, settings: Sequence[AnySetting], progress: Progress
    ) -> None:
        self._network, self._base, self._settings, self._progress = network, base, settings, progress
        self._seen: dict[int, tuple[Content, int]] = {}

    def coarsest(self, damage: Callable[[Content], float], bound: float, *, beyond: int = 0) -> Search:
        """Halve the row until the coarsest within the bound is found; the first one needs no look.

        ``beyond``: so many coarser ones are tried as well, for damage that does not rise steadily.
        """
        points: dict[int, Point] = {}

        def holds(number: int) -> bool:
            content, size = self._trial(number)
            points[number] = Point(_label(self._settings[number]), size, round(float(damage(content)), 6))
            return points[number].damage <= bound

        low, high = 0, len(self._settings)
        while high - low > 1:
            self._progress(0.5 + 0.5 * len(points) / len(self._settings).bit_length(), "trying settings")
            middle = (low + high) // 2
            low, high = (middle, high) if holds(middle) else (low, middle)
        # The ways out: lossless holds by definition, and the default may be smaller than what the search ended with.
        for number in (0, 1, *range(high, min(high + beyond, len(self._settings)))):
            if number not in points:
                holds(number)
        within = [number for number in points if number == 0 or points[number].damage <= bound]
        best = min(within, key=lambda number: points[number].bytes)
        return Search(*self._seen[best], tuple(points[number] for number in sorted(points)))

    def _trial(self, number: int) -> tuple[Content, int]:
        if number not in self._seen:
            content = compress(self._network, self._settings[number], base=self._base)
            self._seen[number] = content, _size(content, self._base)
        return self._seen[number]


def _size(content: Content, base: Content | None) -> int:
    """What travels: the delta, or the full artifact without a base."""
    return len(encode_full(content) if base is None else make_delta(base, content, Codec.MODEL).data)


def _label(setting: AnySetting) -> str:
    match setting:
        case None:
            return "lossless"
        case Compensated():
            return f"price {setting.price:g}"
        case Setting():
            return "default" if setting.keep_codebooks else f"step {setting.step:g}"


def _preprocessing(network: SourceNetwork) -> Preprocessing:
    if network.manifest.preprocessing is None:
        raise ManifestRefused("pictures cannot be shown to a network without preprocessing", remedy="give it with --preprocess")
    return network.manifest.preprocessing
