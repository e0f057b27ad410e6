"""Choosing how coarse a network may become, by running it on the user's pictures instead of by rule; they need no labels.

What is bounded is the divergence between the answers of the float network and of the compressed one. With a base, the artifact
is the delta, and the bound is on what it loses: the divergence that is left over the divergence that the update was to bring,
KL(new || shipped) / KL(new || base). The settings are prices of a bit under error compensation. What is judged is judged on
pictures that it was not calibrated on; what ships, if it is a full artifact, is calibrated on all of them for the same price.

What is expected of a setting is measured at the temperature at which the network is undecided: on the pictures that it was
trained on a softmax hardly shows what hurts on others, and a handful of pictures make up all that it shows. What is seen of
that which ships is measured at both; of what is lost in the answers as they are, what may be chance is taken off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model_registry.compression.calibration import Calibration, joined
from model_registry.compression.expectation import coarsest
from model_registry.compression.judges import PLAIN, TELLING, Everyone, Judges
from model_registry.compression.pictures import Parted, calibrated_on, preprocessing_of
from model_registry.compression.pipeline import SourceNetwork, compress, line_of, untouched
from model_registry.compression.quantization import Setting
from model_registry.compression.rounding import Compensated
from model_registry.compression.trials import (
    PRICES,
    WAYS_OUT,
    AnySetting,
    Look,
    Point,
    Progress,
    Search,
    Trials,
    Untempered,
    settings_row,
)
from model_registry.compression.updates import LOST_LIMIT
from model_registry.contract.content import Content
from model_registry.contract.full import encode_full
from model_registry.models.evaluation import pictures

Doubles = npt.NDArray[np.float64]
# A mean divergence of a hundredth of a nat changes about one answer in twenty where the network itself is undecided.
MAX_DIVERGENCE = 0.01
# Elsewhere 0.15 to 0.85 times as much of an update was lost as on the pictures that judge; of layers by themselves up to 1.05.
# That is no guarantee: the noise of a base may hang on a dozen pictures, which are others there.
MARGIN = 0.95
# Of a network that is sure of its pictures it was up to 2.9 times, seldom 3.4: where answers that are nearly certain turn, what
# is lost grows faster than where they are undecided. It is sure where it takes more than this to make it undecided.
MARGIN_OF_SURE, SURE = 0.3, 2.0
# An update of which nothing at all may be missing is still divided by something.
LEAST_LOST = 1e-6
# A delta above this part of a full artifact mends what the base's compression did rather than bring the update.
REPAIRS = 10


def calibrate(
    network: SourceNetwork, folder: Path, *, base: Content | None, progress: Progress, max_lost: float = LOST_LIMIT
) -> Search:
    """The smallest artifact that is true on the pictures of ``folder``: 250 at most calibrate, as many judge every setting, and
    up to 4,000 more tell whether what was chosen holds.

    Without a base: the full artifact whose answers are expected to diverge by at most 0.01 nats on average, calibrated on those
    that judged as well once its price is known, which only brings it nearer. With one: the delta that loses at most the share
    ``max_lost`` of the update, and is expected to lose less on these pictures (``reserved``), so that it holds elsewhere. It is
    counted above the *noise*: what the base's encoding of untouched tensors costs. Where that takes a tenth of a full artifact,
    because a coarse base errs more than the update brings, noise is what compressing the new network like the base's line loses
    anyway. Of classes that the base does not have nothing is in the update, and what is missing counts. Where the base answers
    another question (other input, classes in another order, other classes told in probabilities), the bound is 0.01 nats.
    Raises ManifestRefused without preprocessing, MalformedArtifact without pictures, ModelUnusable when answers are no numbers.
    """
    shown, parts = _Shown(progress), Parted.of(pictures(folder))
    told = _Told.by(network, parts, shown)
    if base is not None and _asks_the_same(base, network) and told.shows(base):
        return _delivering(network, base, told, max_lost, progress=shown)
    trials = Trials(network, base, settings_row(told.calibration), shown)
    found = _smallest(trials, told.judges.divergences, told.everyone.divergences, MAX_DIVERGENCE, MAX_DIVERGENCE)
    return _calibrated_on_all(network, found, told.calibration, parts.judge) if base is None else found


@dataclass(frozen=True, slots=True, eq=False)
class _Told:
    """What pictures tell of a network: a ``calibration``, the ``judges`` of every setting, ``everyone`` of what is chosen."""

    calibration: Calibration
    judges: Judges
    everyone: Everyone

    @classmethod
    def by(cls, network: SourceNetwork, parts: Parted, shown: _Shown) -> _Told:
        exact, preprocessing = network.exact(), preprocessing_of(network)
        judges = Judges(exact, preprocessing, parts.judge)
        asked = [judges]
        if parts.more:
            more = Judges(exact, preprocessing, parts.more, temperature=judges.temperature, progress=shown.meanwhile)
            asked.append(more)
        calibration = calibrated_on(network, parts.calibrate, lambda share, step: shown(share / 2, step))
        return cls(calibration, judges, Everyone(asked))

    def shows(self, base: Content) -> bool:
        """Whether the pictures tell what an update from ``base`` brings."""
        return self.judges.can_compare(base) and self.judges.divergences(base)[TELLING] > 0


def _delivering(network: SourceNetwork, base: Content, told: _Told, max_lost: float, *, progress: Progress) -> Search:
    """The smallest delta that loses at most the share ``max_lost`` of the update from ``base``."""
    trials = Trials(network, base, settings_row(told.calibration), progress)
    # What no delta is asked to mend.
    kept, like = [_kept(network, base)], line_of(base)

    def lost(judges: Judges | Everyone, content: Content) -> Doubles:
        update, noise = judges.divergences(base), _noise(judges, kept)
        missing = np.maximum(judges.divergences(content) - noise, 0)
        # Where all of the update is noise, what is missing is measured by the part of it that may be.
        shares = _shares(missing, np.maximum(update - noise, max(max_lost, LEAST_LOST) * update))
        # Of the answers as they are, what is more than chance.
        shares[PLAIN] -= standard_error(judges.each(content)[PLAIN], judges.each(base)[PLAIN])
        return shares

    def smallest() -> Search:
        bound = reserved(max_lost, told.judges.temperature)
        return _smallest(trials, partial(lost, told.judges), partial(lost, told.everyone), bound, max_lost)

    found = smallest()
    if REPAIRS * found.bytes > len(encode_full(base)):
        kept.append(compress(network, _setting_like(like, told.calibration)))
        found = smallest()
    return _told_of(found, base, told.everyone, kept, like)


def _told_of(found: Search, base: Content, everyone: Everyone, kept: Sequence[Content], like: dict[str, Any]) -> Search:
    """With what is lost on all pictures in the recipe, instead of the loss that was worked out from weights."""
    missing, whole, noise = everyone.divergences(found.content), everyone.divergences(base), _noise(everyone, kept)
    shares, errs = _shares(missing, whole), _shares(noise, whole)
    error = standard_error(everyone.each(found.content)[PLAIN], everyone.each(base)[PLAIN])
    outcome = {
        "lost": round(float(shares[TELLING]), 4),
        "noise": round(float(min(errs[TELLING], shares[TELLING])), 4),
        "like": like,
    }
    untempered = Untempered(round(float(shares[PLAIN]), 4), round(float(error), 4))
    content = found.content.with_recipe(**outcome)
    return replace(found, content=content, untempered=untempered, noise=float(errs[TELLING]))


def reserved(max_lost: float, temperature: float) -> float:
    """What may be lost on the pictures that judge, so that no more than ``max_lost`` is lost elsewhere.

    ``temperature``: the telling one of those pictures.
    """
    return max_lost * (MARGIN_OF_SURE if temperature > SURE else MARGIN)


def _shares(missing: Doubles, update: Doubles) -> Doubles:
    """What of an update is missing; nothing of one that does not show, as in answers that are certain before and after."""
    return np.divide(missing, update, out=np.zeros_like(update), where=update != 0)


def standard_error(missing: Doubles, update: Doubles) -> float:
    """Of the share of an update that is missing, told by each of some pictures: a ratio of means (Cochran 1977, 6.3)."""
    whole = float(update.sum())
    if whole == 0:
        return 0.0
    rest = missing - missing.sum() / whole * update
    return float(np.sqrt(np.square(rest).sum())) / whole


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
            return float(judged(trials.content(number))[TELLING])

        return coarsest(WAYS_OUT + len(PRICES), telling, bound, WAYS_OUT)

    while True:
        found = trials.smallest(seen, limit, promising)
        points.update(found.points)
        told = float(proven(found.content).max())
        # The last way out is taken whatever it does.
        if told <= limit or found.content.sha256 in disproved:
            return found.with_points(points)
        disproved[found.content.sha256] = told
        bound *= limit / told


def _noise(judges: Judges | Everyone, kept: Sequence[Content]) -> Doubles:
    return np.asarray(np.max([judges.divergences(content) for content in kept], axis=0))


def _kept(network: SourceNetwork, base: Content) -> Content:
    """The new network with what it shares with the base as the base has it: that much no delta mends."""
    kept = untouched(network, base)
    exact = network.exact()
    return Content(exact.manifest, exact.graph, tuple(kept.get(tensor.name, tensor) for tensor in exact.tensors))


def _setting_like(like: dict[str, Any], measured: Calibration) -> AnySetting:
    match like:
        case {"price": float(price)} if price > 0:
            return Compensated(measured, price)
        case {"step": float(step), "codebooks": bool(codebooks)} if step > 0:
            return Setting(step, keep_codebooks=codebooks)
        case _:
            return None


def _asks_the_same(base: Content, network: SourceNetwork) -> bool:
    """Whether both take the same pictures, and classes that both have stand at the same places, as far as labels tell."""
    if (base.manifest.inputs, base.manifest.preprocessing) != (network.manifest.inputs, network.manifest.preprocessing):
        return False
    before, now = base.manifest.labels, network.manifest.labels
    if len(before) == len(now):
        # Others may be better names.
        return before == now or sorted(before) != sorted(now)
    return all(old == new for old, new in zip(before, now, strict=False))


def _calibrated_on_all(network: SourceNetwork, found: Search, measured: Calibration, judges: Sequence[Path]) -> Search:
    """The artifact at the price that was found, calibrated on the pictures that judged it as well."""
    price = found.content.manifest.lineage.recipe.get("price")
    if price is None:
        return found
    content = compress(network, Compensated(joined([measured, calibrated_on(network, judges)]), price))
    return replace(found, content=content, bytes=len(encode_full(content)))
