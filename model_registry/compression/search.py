"""Choosing how coarse a network may become, by running it on the user's pictures instead of by rule.

``calibrate`` needs no labels: it bounds the divergence between the answers of the float network and of the compressed one.
``within_drop`` needs them: it bounds the points of top-1 accuracy that are lost. The settings are prices of a bit under error
compensation. With a base, the artifact is the delta, and ``calibrate`` bounds what it loses: the divergence that is left over
the divergence that the update was to bring, KL(new || shipped) / KL(new || base).

Divergences that bound are also taken at the temperature at which the network is undecided: on the pictures that it was trained
on a softmax hardly shows what hurts on others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
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
from model_registry.compression.trials import AnySetting, Damage, Progress, Search, Trials
from model_registry.compression.updates import LOST_LIMIT
from model_registry.contract.content import Content
from model_registry.contract.errors import ManifestRefused
from model_registry.contract.full import encode_full
from model_registry.contract.preprocessing import Preprocessing
from model_registry.contract.tensors import Encoding
from model_registry.models.evaluation import (
    Sample,
    all_logits,
    content_engine,
    first_answers_right,
    pictures,
    read_picture,
    spread,
)
from model_registry.models.graphs import output_classes

Doubles = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
# Nats a bit, a sixth of an octave apart: from hardly any change to a tenth of the size of a careful setting. Finer than all of
# them are the ways out: None, which is lossless and always holds, and the default.
PRICES = tuple(float(f"{1e-10 * 2 ** (n / 6):.3g}") for n in range(90))
# A mean divergence of a hundredth of a nat changes about one answer in twenty where the network itself is undecided.
MAX_DIVERGENCE = 0.01
MAX_CALIBRATION_PICTURES = 200
# What is lost on other pictures than those that were looked at may be this much more.
HELD_OUT = 0.8
# A delta above this part of a full artifact mends what the base's compression did rather than bring the update.
REPAIRS = 10


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
    trials = Trials(network, base, settings, progress)
    update = divergences(base) if base is not None and _comparable(base, network) else np.zeros(2)
    if base is None or not update.all():
        return trials.smallest(lambda content: Damage(max(divergences(content))), MAX_DIVERGENCE)
    bound, noise, like = HELD_OUT * max_lost, divergences(_kept(network, base)), _like(base)

    def share(content: Content) -> Damage:
        return Damage(float((np.maximum(divergences(content) - noise, 0) / np.maximum(update - noise, bound * update)).max()))

    found = trials.smallest(share, bound)
    if REPAIRS * found.bytes > len(encode_full(base)):
        noise = np.maximum(noise, divergences(compress(network, _setting_like(like, measured))))
        found = trials.smallest(share, bound)
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
    """The smallest artifact that loses at most ``max_drop`` points of top-1 on ``samples``.

    Raises ManifestRefused without preprocessing, ModelUnusable for a label that the network has no answer for.
    """
    preprocessing = _preprocessing(network)

    def right(content: Content) -> Flags:
        return first_answers_right(content_engine(content), preprocessing, samples)

    before = right(network.exact())
    _, settings = _settings(network, spread([sample.path for sample in samples], MAX_CALIBRATION_PICTURES), progress)
    return Trials(network, base, settings, progress).smallest(lambda content: points_lost(before, right(content)), max_drop)


def points_lost(before: Flags, after: Flags) -> Damage:
    """Top-1 that is lost on the same pictures; by chance vary those alone that changed (McNemar 1947)."""
    lost, won = int((before & ~after).sum()), int((after & ~before).sum())
    return Damage(100 * (lost - won) / before.size, 100 * math.sqrt(lost + won) / before.size)


def _settings(network: SourceNetwork, paths: Sequence[Path], progress: Progress) -> tuple[Calibration, tuple[AnySetting, ...]]:
    """What may be chosen, fine to coarse; measures the network on the pictures."""
    preprocessing, name = _preprocessing(network), network.manifest.inputs[0].name
    requests = [{name: preprocessing.apply(read_picture(path))} for path in paths]
    measured = calibrate_layers(network.exact(), requests, progress=lambda share, step: progress(share / 2, step))
    return measured, (None, Setting(), *(Compensated(measured, price) for price in PRICES))


def _preprocessing(network: SourceNetwork) -> Preprocessing:
    if network.manifest.preprocessing is None:
        raise ManifestRefused("pictures cannot be shown to a network without preprocessing", remedy="give it with --preprocess")
    return network.manifest.preprocessing
