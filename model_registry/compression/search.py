"""Choosing how coarse a network may become, by running it on the user's pictures instead of by rule.

``calibrate`` needs no labels: it bounds the divergence between the answers of the float network and of the compressed one.
``within_drop`` needs them: it bounds the points of top-1 accuracy that are lost, and does not take a lucky draw for it. The
settings are prices of a bit under error compensation. What is judged is judged on pictures that it was not calibrated on; what
ships, if it is a full artifact, is calibrated on all of them for the same price. With a base, the artifact is the delta, and
``calibrate`` bounds what it loses: the divergence that is left over the divergence that the update was to bring, KL(new ||
shipped) / KL(new || base).

What is expected of a setting is measured at the temperature at which the network is undecided: on the pictures that it was
trained on a softmax hardly shows what hurts on others, and a handful of pictures make up all that it shows. What is seen of
that which ships is measured at both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from model_registry.compression.calibration import Calibration, calibrate_layers, joined
from model_registry.compression.divergence import log_probabilities
from model_registry.compression.expectation import OCTAVE, coarsest, halved
from model_registry.compression.judges import Everyone, Judges, finite
from model_registry.compression.pipeline import SourceNetwork, compress, untouched
from model_registry.compression.quantization import Setting
from model_registry.compression.rounding import Compensated, coherence_of
from model_registry.compression.settling import settle
from model_registry.compression.trials import WAYS_OUT, AnySetting, Look, Point, Progress, Search, Trials, travelling
from model_registry.compression.updates import LOST_LIMIT
from model_registry.contract.content import Content
from model_registry.contract.errors import ManifestRefused
from model_registry.contract.full import encode_full
from model_registry.contract.preprocessing import Preprocessing
from model_registry.contract.tensors import Encoding
from model_registry.models.evaluation import (
    Sample,
    content_engine,
    labelled_logits,
    picture_input,
    pictures,
    prepared,
    spread,
)
from model_registry.models.graphs import output_classes

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
# Nats a bit, twelve to an octave: from hardly any change to a tenth of the size of a careful setting. Finer than all
# of them are the ways out: None, which is lossless and always holds, and the default.
PRICES = tuple(float(f"{1e-10 * 2 ** (n / OCTAVE):.3g}") for n in range(179))
# A mean divergence of a hundredth of a nat changes about one answer in twenty where the network itself is undecided.
MAX_DIVERGENCE = 0.01
MAX_PICTURES = 500
# A handful of pictures can make up all that an update does to the answers: the more are asked, the more of them are met.
MAX_WITNESSES = 4000
# Every second picture judges and is not calibrated on: on those that it has seen, rounding loses down to half as much.
JUDGE_EVERY = 2
# Whatever trained the network may have seen the pictures, and moved its answers to them further than to others: on pictures
# that nobody saw, up to 1.65 times as much of an update was lost. That is no guarantee: an update whose loss hangs on a dozen
# pictures lost ten times as much there.
MARGIN = 0.6
# An update of which nothing at all may be missing is still divided by something.
LEAST_LOST = 1e-6
# Labelled pictures are parted in two: of a setting is expected what it does to each half when it was calibrated on the other.
HALVES = 2
# Finer than all prices.
_FIRST: Mapping[str, AnySetting] = MappingProxyType({"lossless": None, "default": Setting()})
# A delta above this part of a full artifact mends what the base's compression did rather than bring the update.
REPAIRS = 10


def calibrate(
    network: SourceNetwork, folder: Path, *, base: Content | None, progress: Progress, max_lost: float = LOST_LIMIT
) -> Search:
    """The smallest artifact that is true on the pictures of ``folder``: 250 at most calibrate, as many judge every setting, and
    up to 4,000 more tell whether what was chosen holds.

    Without a base: the full artifact whose answers are expected to diverge by at most 0.01 nats on average, calibrated on those
    that judged as well once its price is known, which only brings it nearer. With one: the delta that loses at most the share
    ``max_lost`` of the update, and is expected to lose 0.6 of that on these pictures, so that it holds elsewhere. It is counted
    above the *noise*: what the base's encoding of untouched tensors costs. Where that takes a tenth of a full artifact, because
    a coarse base errs more than the update brings, noise is what compressing the new network like the base's line loses anyway.
    Where the base answers another question (other classes, other input), the bound is 0.01 nats.
    Raises ManifestRefused without preprocessing, MalformedArtifact without pictures, ModelUnusable when answers are no numbers.
    """
    preprocessing, shown = _preprocessing(network), _Shown(progress)
    seen, judging, more = _parted(pictures(folder))
    judges = Judges(network.exact(), preprocessing, judging)
    parts = [judges]
    if more:
        parts.append(Judges(network.exact(), preprocessing, more, temperature=judges.temperature, progress=shown.meanwhile))
    everyone = Everyone(parts)
    measured = _measured(network, seen, lambda share, step: shown(share / 2, step))
    update = judges.divergences(base) if base is not None and _comparable(base, network) else np.zeros(2)
    if base is None or not update.all():
        trials = Trials(network, base, _row(measured), shown)
        found = _smallest(trials, judges.divergences, everyone.divergences, MAX_DIVERGENCE, MAX_DIVERGENCE)
        return _calibrated_on_all(network, found, measured, judging) if base is None else found
    before = {tensor.name: tensor for tensor in base.tensors}
    coherence = coherence_of(float(update[0]), measured, network.weights, before)
    trials = Trials(network, base, _row(measured, coherence), shown)
    # What no delta is asked to mend.
    kept, like = [_kept(network, base)], _like(base)

    def shares(judges: Judges | Everyone, content: Content) -> Doubles:
        update, noise = judges.divergences(base), _noise(judges, kept)
        missing = np.maximum(judges.divergences(content) - noise, 0)
        # Where all of the update is noise, what is missing is measured by the part of it that may be.
        return np.asarray(missing / np.maximum(update - noise, max(max_lost, LEAST_LOST) * update))

    def smallest() -> Search:
        return _smallest(trials, partial(shares, judges), partial(shares, everyone), MARGIN * max_lost, max_lost)

    found = smallest()
    if REPAIRS * found.bytes > len(encode_full(base)):
        kept.append(compress(network, _setting_like(like, measured)))
        found = smallest()
    lost, noise = everyone.divergences(found.content)[0], _noise(everyone, kept)[0]
    whole = everyone.divergences(base)[0]
    # Instead of the loss that was worked out from weights.
    told = {"lost": round(float(lost / whole), 4), "noise": round(float(min(noise, lost) / whole), 4), "like": like}
    return replace(found, content=found.content.with_recipe(**told))


class _Shown:
    """A progress bar that other work may name itself on without moving it."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._share = progress, 0.0

    def __call__(self, share: float, step: str) -> None:
        self._share = share
        self._progress(share, step)

    def meanwhile(self, share: float, _: str) -> None:
        self._progress(self._share, f"checking on more pictures: {share:.0%}")


Measure = Callable[[Content], Doubles]


def _smallest(trials: Trials, judged: Measure, proven: Measure, bound: float, limit: float) -> Search:
    """The smallest that is expected to be within ``bound`` at the telling temperature, and seen to be within ``limit`` at both.

    ``judged`` and ``proven`` measure what a content does as the answers are, and at the telling temperature; the latter asks
    too many to be asked about every setting. By as much as they see more, the bound is tightened.
    """
    disproved: dict[str, float] = {}
    points: set[Point] = set()

    def seen(content: Content) -> float:
        return max(float(judged(content).max()), disproved.get(content.sha256, 0.0))

    def promising(look: Look) -> int:
        def telling(number: int) -> float:
            look(number)
            return float(judged(trials.content(number))[1])

        return coarsest(WAYS_OUT + len(PRICES), telling, bound, WAYS_OUT)

    while True:
        found = trials.smallest(seen, limit, promising)
        points.update(found.points)
        told = float(proven(found.content).max())
        # The last way out is taken whatever it does.
        if told <= limit or found.content.sha256 in disproved:
            return _with_points(found, points)
        disproved[found.content.sha256] = told
        bound *= limit / told


def _with_points(found: Search, more: Iterable[Point]) -> Search:
    return replace(found, points=tuple(sorted({*found.points, *more}, key=lambda point: -point.bytes)))


def _noise(judges: Judges | Everyone, kept: Sequence[Content]) -> Doubles:
    return np.asarray(np.max([judges.divergences(content) for content in kept], axis=0))


def _parted(paths: Sequence[Path]) -> tuple[list[Path], list[Path], list[Path]]:
    """The pictures that calibrate, those that judge, and more: sorted ones stand class by class, so all are spread.

    A single picture does both.
    """
    chosen = spread(paths, MAX_PICTURES)
    judges = chosen[JUDGE_EVERY - 1 :: JUDGE_EVERY]
    more = spread(sorted(set(paths) - set(chosen)), MAX_WITNESSES)
    return [path for at, path in enumerate(chosen) if (at + 1) % JUDGE_EVERY], judges or chosen, more


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


def within_drop(
    network: SourceNetwork, samples: Sequence[Sample], max_drop: float, *, base: Content | None, progress: Progress
) -> Search:
    """The smallest artifact that loses at most ``max_drop`` points of top-1 on ``samples``, and is expected to elsewhere.

    Raises ManifestRefused without preprocessing, ModelUnusable for answers that are no numbers, or a label without an answer.
    """
    preprocessing = _preprocessing(network)
    logits, labels = labelled_logits(content_engine(network.exact()), preprocessing, samples)
    before = Answers.of(finite(logits), labels)

    @cache
    def answer(content: Content) -> Floats:
        return labelled_logits(content_engine(content), preprocessing, samples)[0]

    def answers(content: Content) -> Answers:
        return Answers.of(answer(content), labels)

    def measured(half: int) -> Calibration:
        paths = spread([sample.path for sample in samples[half::HALVES]], MAX_PICTURES // HALVES)
        return _measured(network, paths, lambda share, step: progress((half + share) / (2 * HALVES), step))

    halves = [measured(half) for half in range(min(HALVES, len(samples)))]
    row = _row(joined(halves))

    told: dict[int, Point] = {}

    def promises(number: int) -> bool:
        """With the setting calibrated on each half of the pictures, every picture is answered by what has not seen it."""
        progress(0.5 + 0.25 * len(told) / len(row).bit_length(), "trying settings on halves")
        name, setting = list(row.items())[number]
        ways = [replace(setting, calibration=half) for half in halves] if isinstance(setting, Compensated) else [setting]
        made = [compress(network, way, base=base) for way in ways]
        first = np.arange(labels.size) % HALVES == 0
        unseen = answers(made[-1]).where(first, answers(made[0]))
        fall, chance = before.fall_to(unseen)
        size = max(travelling(content, base) for content in made)
        told[number] = Point(f"{name}, halves", size, before.lost_in(unseen), fall)
        # No setting does no harm at all: less than one of the pictures, give or take what chance does, is none.
        return fall <= max(max_drop, 100 / labels.size + chance)

    def finish(content: Content) -> Content:
        """Few answers that turned by chance are no reason for a finer setting."""
        bias = list(halves[0].layers.values())[-1].layer.bias
        allowed = max_drop / 100 * labels.size
        return settle(content, bias, answer, exact=logits, labels=labels, allowed=allowed) if bias else content

    trials = Trials(network, base, row, lambda share, step: progress((1 + share) / 2, step), finish)
    found = trials.smallest(lambda content: before.lost_in(answers(content)), max_drop, lambda _: halved(len(row), promises))
    return _with_points(found, told.values())


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


def _row(measured: Calibration, coherence: float = 1.0) -> dict[str, AnySetting]:
    """What may be chosen, fine to coarse."""
    return {**_FIRST} | {f"price {price:g}": Compensated(measured, price, coherence) for price in PRICES}


def _calibrated_on_all(network: SourceNetwork, found: Search, measured: Calibration, judges: Sequence[Path]) -> Search:
    """The artifact at the price that was found, calibrated on the pictures that judged it as well."""
    price = found.content.manifest.lineage.recipe.get("price")
    if price is None:
        return found
    content = compress(network, Compensated(joined([measured, _measured(network, judges, lambda *_: None)]), price))
    return replace(found, content=content, bytes=len(encode_full(content)))


def _measured(network: SourceNetwork, paths: Sequence[Path], progress: Progress) -> Calibration:
    """The network on the pictures."""
    preprocessing, name = _preprocessing(network), picture_input(network.manifest)
    requests = [{name: picture} for picture in prepared(preprocessing, paths)]
    return calibrate_layers(network.exact(), requests, progress=progress)


def _preprocessing(network: SourceNetwork) -> Preprocessing:
    if network.manifest.preprocessing is None:
        raise ManifestRefused("pictures cannot be shown to a network without preprocessing", remedy="give it with --preprocess")
    return network.manifest.preprocessing
