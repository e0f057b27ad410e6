"""The user's pictures: which of them do what, and what a network's layers see on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from model_registry.compression.calibration import Calibration, calibrate_layers
from model_registry.compression.pipeline import SourceNetwork
from model_registry.contract.errors import ManifestRefused
from model_registry.contract.preprocessing import Preprocessing
from model_registry.models.evaluation import picture_input, prepared, spread

Progress = Callable[[float, str], None]
MAX_PICTURES = 500
# A handful of pictures can make up all that an update does to the answers: the more are asked, the more of them are met.
MAX_WITNESSES = 4000
# Every second picture judges and is not calibrated on: on those that it has seen, rounding loses down to half as much.
JUDGE_EVERY = 2


@dataclass(frozen=True, slots=True)
class Parted:
    """Those that a network is calibrated on, those that ``judge`` every setting, and ``more`` that tell whether one holds."""

    calibrate: list[Path]
    judge: list[Path]
    more: list[Path]

    @classmethod
    def of(cls, paths: Sequence[Path]) -> Parted:
        """Sorted pictures stand class by class, so all parts are spread over them. A single picture calibrates and judges."""
        chosen = spread(paths, MAX_PICTURES)
        more = spread(sorted(set(paths) - set(chosen)), MAX_WITNESSES)
        calibrate = [path for at, path in enumerate(chosen) if (at + 1) % JUDGE_EVERY]
        return cls(calibrate, chosen[JUDGE_EVERY - 1 :: JUDGE_EVERY] or chosen, more)


def calibrated_on(network: SourceNetwork, paths: Sequence[Path], progress: Progress = lambda *_: None) -> Calibration:
    """What the layers see on these pictures. Raises as ``preprocessing_of`` and ``calibrate_layers``."""
    preprocessing, name = preprocessing_of(network), picture_input(network.manifest)
    requests = [{name: picture} for picture in prepared(preprocessing, paths)]
    return calibrate_layers(network.exact(), requests, progress=progress)


def preprocessing_of(network: SourceNetwork) -> Preprocessing:
    """Raises ManifestRefused for a network that has none."""
    if network.manifest.preprocessing is None:
        raise ManifestRefused("pictures cannot be shown to a network without preprocessing", remedy="give it with --preprocess")
    return network.manifest.preprocessing
