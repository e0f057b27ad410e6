"""Choosing how coarse a network may become, by running it on the user's pictures instead of by rule.

``calibrate`` needs no labels: it bounds the divergence between the answers of the float network and of the compressed one.
``within_drop`` needs them: it bounds the points of top-1 accuracy that are lost, and does not take a lucky draw for it. The
settings are prices of a bit under error compensation. With a base, the artifact is the delta, and ``calibrate`` bounds what it
loses: the divergence that is left over the divergence that the update was to bring, KL(new || shipped) / KL(new || base).

Divergences that bound are also taken at the temperature at which the network is undecided: on the pictures that it was trained
on a softmax hardly shows what hurts on others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model_registry.compression.calibration import Calibration, calibrate_layers
from model_registry.compression.divergence import log_softmax, mean_divergence, telling_temperature
from model_registry.compression.pipeline import SourceNetwork, compress, untouched
from model_registry.compression.quantization import Setting
from model_registry.compression.rounding import Compensated, coherence_of
from model_registry.compression.trials import AnySetting, Damage, Progress, Search, Trials
from model_registry.compression.updates import LOST_LIMIT
from model_registry.contract.content import Content
from model_registry.contract.errors import ManifestRefused, ModelUnusable
from model_registry.contract.full import encode_full
from model_registry.contract.preprocessing import Preprocessing
from model_registry.contract.tensors import Encoding
from model_registry.models.evaluation import (
    Sample,
    all_logits,
    content_engine,
    labelled_logits,
    pictures,
    read_picture,
    spread,
)
from model_registry.models.graphs import output_classes

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
# Nats a bit, a twelfth of an octave apart: from hardly any change to a tenth of the size of a careful setting. Finer than all
# of them are the ways out: None, which is lossless and always holds, and the default.
PRICES = tuple(float(f"{1e-10 * 2 ** (n / 12):.3g}") for n in range(179))
# A mean divergence of a hundredth of a nat changes about one answer in twenty where the network itself is undecided.
MAX_DIVERGENCE = 0.01
MAX_PICTURES = 300
# Every third picture judges and is not calibrated on: on those that it has seen, rounding loses down to half as much.
JUDGE_EVERY = 3
# Whatever trained the network may have seen the judges; on pictures that nobody saw, up to 1.46 times as much was lost. That is
# no guarantee: an update whose loss hangs on a dozen pictures lost ten times as much there.
MARGIN = 0.68
# So many thirds of the labelled pictures are left out in turn: which few answers turn is a lottery, and each third draws anew.
DRAWS = 3
# Standard errors of a fall that are put down to chance. With more, many settings are tried that could hold by luck alone.
CHANCE = 1.0
# A delta above this part of a full artifact mends what the base's compression did rather than bring the update.
REPAIRS = 10


def calibrate(
    network: SourceNetwork, folder: Path, *, base: Content | None, progress: Progress, max_lost: float = LOST_LIMIT
) -> Search:
    """The smallest artifact that is true on up to 300 pictures of ``folder``: two of three calibrate, the third judges.

    Without a base: the full artifact whose answers diverge by at most 0.01 nats on average. With one: the delta that loses at
    most the share ``max_lost`` of the update, here 0.68 of it so that it holds elsewhere, counted above the *noise*: what the
    base's encoding of untouched tensors costs. Where that takes a tenth of a full artifact, because a coarse base errs more
    than the update brings, noise is what compressing the new network like the base's line loses anyway. Where the base answers
    another question (other classes, other input), the bound is 0.01 nats.
    Raises ManifestRefused without preprocessing, MalformedArtifact without pictures, ModelUnusable when answers are no numbers.
    """
    preprocessing = _preprocessing(network)
    seen, judges = _split(spread(pictures(folder), MAX_PICTURES))
    reference = _finite(all_logits(content_engine(network.exact()), preprocessing, judges))
    temperatures = 1.0, telling_temperature(reference)

    @cache
    def divergences(content: Content) -> Doubles:
        answers = all_logits(content_engine(content), preprocessing, judges)
        return np.array([mean_divergence(reference, answers, temperature=t) for t in temperatures])

    measured = _measured(network, seen, lambda share, step: progress(share / 2, step))
    update = divergences(base) if base is not None and _comparable(base, network) else np.zeros(2)
    if base is None or not update.all():
        trials = Trials(network, base, _row([measured]), progress)
        return trials.smallest(lambda content: Damage.certain(max(divergences(content))), MAX_DIVERGENCE)
    before = {tensor.name: tensor for tensor in base.tensors}
    coherence = coherence_of(float(update[0]), measured, network.weights, before)
    trials = Trials(network, base, _row([measured], coherence), progress)
    bound, noise, like = MARGIN * max_lost, divergences(_kept(network, base)), _like(base)

    def share(content: Content) -> Damage:
        missing = np.maximum(divergences(content) - noise, 0)
        return Damage.certain(float((missing / np.maximum(update - noise, bound * update)).max()))

    found = trials.smallest(share, bound)
    if REPAIRS * found.bytes > len(encode_full(base)):
        noise = np.maximum(noise, divergences(compress(network, _setting_like(like, measured))))
        found = trials.smallest(share, bound)
    lost = float((divergences(found.content) / update)[0])
    outcome = {"lost": round(lost, 4), "noise": round(min(float((noise / update)[0]), lost), 4), "like": like}
    return replace(found, content=_with_outcome(found.content, outcome))


def _split(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """The pictures that calibrate and those that judge: sorted ones stand class by class, so both are spread. A few do both."""
    judges = list(paths[JUDGE_EVERY - 1 :: JUDGE_EVERY])
    return [path for at, path in enumerate(paths) if (at + 1) % JUDGE_EVERY], judges or list(paths)


def _kept(network: SourceNetwork, base: Content) -> Content:
    """The new network with what it shares with the base as the base has it: that much no delta mends."""
    kept = untouched(network, base)
    exact = network.exact()
    return Content(exact.manifest, exact.graph, tuple(kept.get(tensor.name, tensor) for tensor in exact.tensors))


def _like(base: Content) -> dict[str, Any]:
    """How coarse the line of models is: the setting of the release that had no base; nothing where codebooks were kept."""
    recipe = base.manifest.lineage.recipe
    # In a later release codebooks may be grids that moved: what the line was told to be like is in its lineage.
    if "like" not in recipe and any(tensor.encoding is Encoding.CODEBOOK for tensor in base.tensors):
        return {}
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

    Raises ManifestRefused without preprocessing, ModelUnusable for answers that are no numbers, or a label without an answer.
    """
    preprocessing = _preprocessing(network)

    def measured(draw: int) -> Calibration:
        paths = [sample.path for at, sample in enumerate(samples) if len(samples) < DRAWS or at % DRAWS != draw]
        return _measured(network, spread(paths, MAX_PICTURES), lambda share, step: progress((draw + share) / (2 * DRAWS), step))

    logits, labels = labelled_logits(content_engine(network.exact()), preprocessing, samples)
    before = Answers.of(_finite(logits), labels)

    def lost(content: Content) -> Damage:
        return before.lost_in(Answers.of(*labelled_logits(content_engine(content), preprocessing, samples)))

    row = _row([measured(draw) for draw in range(DRAWS)])
    return Trials(network, base, row, progress).smallest(lost, max_drop)


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """To labelled pictures: whether the first answer is ``right``, and how ``likely`` the right one is said to be."""

    right: npt.NDArray[np.bool_]
    likely: Doubles

    @classmethod
    def of(cls, logits: Floats, labels: npt.NDArray[np.intp]) -> Answers:
        """Logits (pictures, classes) and labels (pictures)."""
        likely = np.exp(log_softmax(logits))[np.arange(labels.size), labels]
        return cls(logits.argmax(axis=1) == labels, likely)

    def lost_in(self, after: Answers) -> Damage:
        """Points of accuracy. A few answers that turn make it jump; the probability of the right one falls as steadily as the
        network gets worse, and less what chance explains it is what was lost at least.
        """
        fall = self.likely - after.likely
        floor = fall.mean() - CHANCE * fall.std() / math.sqrt(fall.size)
        return Damage(100 * float(self.right.mean() - after.right.mean()), 100 * float(floor))


def _row(measured: Sequence[Calibration], coherence: float = 1.0) -> dict[str, AnySetting]:
    """What may be chosen, fine to coarse; of several draws of the pictures each one at every other price."""
    row: dict[str, AnySetting] = {"lossless": None, "default": Setting()}
    for price, (draw, calibration) in product(PRICES[:: 1 if len(measured) == 1 else 2], enumerate(measured, 1)):
        name = f"price {price:g}" if len(measured) == 1 else f"price {price:g}, draw {draw}"
        row[name] = Compensated(calibration, price, coherence)
    return row


def _measured(network: SourceNetwork, paths: Sequence[Path], progress: Progress) -> Calibration:
    """The network on the pictures."""
    preprocessing, name = _preprocessing(network), network.manifest.inputs[0].name
    requests = [{name: preprocessing.apply(read_picture(path))} for path in paths]
    return calibrate_layers(network.exact(), requests, progress=progress)


def _finite(logits: Floats) -> Floats:
    """Answers of the float network, which all others are measured by."""
    if not np.isfinite(logits).all():
        raise ModelUnusable(
            "the network's answers to some of the pictures are not finite numbers",
            remedy="check its weights, and whether the preprocessing is the one that it was trained with",
        )
    return logits


def _preprocessing(network: SourceNetwork) -> Preprocessing:
    if network.manifest.preprocessing is None:
        raise ManifestRefused("pictures cannot be shown to a network without preprocessing", remedy="give it with --preprocess")
    return network.manifest.preprocessing
