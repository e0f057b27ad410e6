"""The reference data: the published network, and pictures split in those for teaching and those that are held out."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from model_registry.bench.scenarios import Pictures
from model_registry.contract.errors import MalformedArtifact
from model_registry.contract.limits import MIB
from model_registry.contract.preprocessing import Preprocessing
from model_registry.models.checkpoints import read_labels
from model_registry.models.deep_compression import PREPROCESSING
from model_registry.models.evaluation import Sample, labelled
from model_registry.models.files import read_file

# Signs are 64x64 as they lie there; the colours are prepared as the published network was taught.
SIGN_PREPROCESSING = Preprocessing((64, 64), None, PREPROCESSING.order, PREPROCESSING.mean, PREPROCESSING.scale)


@dataclass(frozen=True, slots=True)
class Split:
    """Labelled pictures: for teaching and calibration, and ``held_out`` of both."""

    teaching: tuple[Sample, ...]
    held_out: tuple[Sample, ...]
    preprocessing: Preprocessing
    labels: tuple[str, ...]

    @property
    def everything(self) -> tuple[Sample, ...]:
        return (*self.teaching, *self.held_out)


@dataclass(frozen=True, slots=True)
class ReferenceData:
    """A folder of real weights and pictures that is read in place."""

    folder: Path

    @classmethod
    def at(cls, folder: Path | None) -> ReferenceData:
        """``folder``, or $DELTAFLEET_REFERENCE_DATA, or ../shared/data. Raises MalformedArtifact when it is not there."""
        repository = Path(__file__).resolve().parents[2]
        found = folder or Path(os.environ.get("DELTAFLEET_REFERENCE_DATA", repository.parent / "shared" / "data"))
        if not found.is_dir():
            raise MalformedArtifact(
                f"no reference data at {found}", remedy="name its folder with --reference or DELTAFLEET_REFERENCE_DATA"
            )
        return cls(found)

    @property
    def network(self) -> Path:
        return self.folder / "squeezenet-deep-compression" / "compressed_SqueezeNet.net"

    def split(self, pictures: Pictures) -> Split:
        """Raises MalformedArtifact."""
        if pictures is Pictures.IMAGENET:
            place = self.folder / "imagenet-sample"
            samples = labelled(place)
            # One picture a class, sorted by class: every other one leaves both halves spread over all classes.
            # Its labels stay outside, as the published file has none.
            return Split(tuple(samples[::2]), tuple(samples[1::2]), PREPROCESSING, ())
        place = self.folder / "gtsrb"
        teaching, held_out = (tuple(labelled(place / part)) for part in ("train", "val"))
        labels = read_labels(read_file(place / "classes.csv", max_bytes=MIB).decode(errors="replace"))
        return Split(teaching, held_out, SIGN_PREPROCESSING, labels)
