"""What is measured: which networks are taught from which, and which pairs of them are an update. Data, no code.

Two families. The first is the published ImageNet network, tuned on half of the sample pictures. The second is what fleets do:
that network is taught to read traffic signs (a first version), and then updated in the field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any


class Pictures(StrEnum):
    """A set of labelled pictures, split in those for teaching and calibration and those that are held out."""

    IMAGENET = "imagenet"
    SIGNS = "signs"


class Moving(StrEnum):
    """What a training may change."""

    KEPT = "kept weights"  # what is zero stays zero
    ALL = "all weights"
    CODEBOOKS = "codebooks"  # only the values that weights share; which weight has which stays


@dataclass(frozen=True, slots=True)
class Phase:
    """Some passes over the pictures with Adam at one ``rate``; ``keys`` are patterns of the weights that move."""

    passes: int
    rate: float
    keys: tuple[str, ...] = ("*",)


@dataclass(frozen=True, slots=True)
class Training:
    """How one network is made from another. ``start`` None: the published network as it is.

    ``classes`` is the size of the head: another than the start's makes a new head (``new_head``) or lets it grow.
    ``pruned``: this share of each layer's weights, the smallest, goes before.
    """

    start: str | None
    pictures: Pictures
    classes: int
    phases: tuple[Phase, ...] = ()
    moving: Moving = Moving.KEPT
    batch: int = 25
    pruned: float = 0.0
    new_head: bool = False
    dropout: bool = False
    seed: int = 1

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Change(StrEnum):
    """What an update does to the weights."""

    FEW = "few"  # most of them stay
    DENSE = "dense"  # most of them move a little
    ANEW = "anew"  # another network


@dataclass(frozen=True, slots=True)
class FirstVersion:
    """What a vehicle gets that has nothing.

    ``max_drop``: None calibrates on the teaching pictures without their labels; points of top-1 that may be lost on all
    labelled pictures otherwise.
    """

    name: str
    network: str
    about: str
    max_drop: float | None = None


@dataclass(frozen=True, slots=True)
class Update:
    """From the network ``base`` to the network ``network``. ``max_lost``: the share of the update that may be missing."""

    name: str
    base: str
    network: str
    about: str
    change: Change
    max_lost: float = 0.05


Scenario = FirstVersion | Update


IMAGENET, SIGNS = "imagenet", "signs"
_IMAGENET_CLASSES, _SIGN_CLASSES = 1000, 43
_HEAD = ("classifier.*",)
# fire8, fire9 and the head, as the keys count them.
_LAST_MODULES = ("features.10.*", "features.12.*", "classifier.*")


def _tuned(*phases: Phase, moving: Moving = Moving.KEPT, pruned: float = 0.0) -> Training:
    return Training(IMAGENET, Pictures.IMAGENET, _IMAGENET_CLASSES, phases, moving, pruned=pruned)


def _first_signs(classes: int) -> Training:
    phases = (Phase(1, 1e-3, _HEAD), Phase(7, 2e-4), Phase(2, 4e-5))
    return Training(IMAGENET, Pictures.SIGNS, classes, phases, Moving.ALL, batch=32, new_head=True, dropout=True)


def _signs(phase: Phase, start: str = SIGNS, batch: int = 32) -> Training:
    return Training(start, Pictures.SIGNS, _SIGN_CLASSES, (phase,), Moving.ALL, batch=batch, seed=2)


# In the order in which they are made: a start stands before what starts from it.
TRAININGS: Mapping[str, Training] = MappingProxyType(
    {
        IMAGENET: Training(None, Pictures.IMAGENET, _IMAGENET_CLASSES),
        "classifier-only": _tuned(Phase(3, 1e-4, _HEAD)),
        "all-layers-slightly": _tuned(Phase(2, 1e-5)),
        SIGNS: _first_signs(_SIGN_CLASSES),
        # Moves the weights by about 0.002 of their size, and nearly every one of them.
        "signs-weekly": _signs(Phase(2, 2e-5), batch=128),
        "centroids": _tuned(Phase(2, 1e-4), moving=Moving.CODEBOOKS),
        "biases": _tuned(Phase(2, 1e-3, ("*.bias",))),
        "all-layers-more": _tuned(Phase(3, 1e-4)),
        "re-pruned": _tuned(Phase(2, 2e-5), pruned=0.15),
        "signs-head": _signs(Phase(2, 1e-4, _HEAD)),
        "signs-42": _first_signs(_SIGN_CLASSES - 1),
        "signs-class-more": _signs(Phase(2, 1e-4), start="signs-42"),
        "signs-last-modules": _signs(Phase(2, 5e-5, _LAST_MODULES)),
        "full-retrain": _tuned(Phase(4, 3e-4), moving=Moving.ALL),
    }
)

SCENARIOS: tuple[Scenario, ...] = (
    FirstVersion("imagenet", IMAGENET, "the published ImageNet network, calibrated without labels"),
    FirstVersion("imagenet-no-drop", IMAGENET, "the same, no top-1 lost on all labelled pictures", 0.0),
    FirstVersion("imagenet-half-point", IMAGENET, "the same, half a point lost at most", 0.5),
    Update("classifier-only", IMAGENET, "classifier-only", "the head alone is tuned", Change.FEW, max_lost=0.01),
    Update("all-layers-slightly", IMAGENET, "all-layers-slightly", "all layers, Adam 1e-5", Change.DENSE),
    Update("all-layers-more", IMAGENET, "all-layers-more", "all layers, Adam 1e-4", Change.DENSE),
    Update("re-pruned", IMAGENET, "re-pruned", "15 % of what was left pruned, then tuned", Change.DENSE),
    Update("biases", IMAGENET, "biases", "the biases alone", Change.FEW),
    Update("centroids", IMAGENET, "centroids", "the codebooks alone, as in trained quantization", Change.DENSE),
    Update("full-retrain", IMAGENET, "full-retrain", "dense, Adam 3e-4: a delta should hardly pay", Change.ANEW),
    FirstVersion("signs", SIGNS, "the first version for traffic signs, dense"),
    Update("signs-weekly", SIGNS, "signs-weekly", "dense, all layers, Adam 2e-5", Change.DENSE),
    Update("signs-head", SIGNS, "signs-head", "the head alone", Change.FEW),
    Update("signs-last-modules", SIGNS, "signs-last-modules", "fire8, fire9 and the head", Change.FEW),
    Update("signs-class-more", "signs-42", "signs-class-more", "42 classes become 43, all layers, Adam 1e-4", Change.DENSE),
)
