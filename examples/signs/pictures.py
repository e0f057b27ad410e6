"""The pictures that the recipe learns from and is judged on: rendered here, or read from a folder of photographs.

A source knows its labels and gives, for a split and a disturbance, the pictures of one class.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from examples.signs import disturbance as effects
from examples.signs.disturbance import CLEAR, Disturbance
from examples.signs.faces import LABELS
from examples.signs.render import SIDE, sample

# Held-out pictures come from seeds that no training run reaches.
HELD_OUT_OFFSET = 2**31
PHOTOGRAPHS = (".jpg", ".jpeg", ".png", ".ppm")


class Split(StrEnum):
    """The names of the folders, too."""

    TRAIN = "train"
    HELD_OUT = "val"


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """RGB pixels (n, side, side, 3) and class indices (n)."""

    pixels: npt.NDArray[np.uint8]
    classes: npt.NDArray[np.int64]

    @classmethod
    def of_all(cls, parts: Sequence[Pictures]) -> Pictures:
        """Sets of pictures one after the other."""
        return cls(np.concatenate([p.pixels for p in parts]), np.concatenate([p.classes for p in parts]))


class Source(Protocol):
    """Where pictures come from."""

    labels: tuple[str, ...]

    def fingerprint(self, split: Split) -> str:
        """Tells sets of pictures apart, so that no half-trained network goes on with another one."""

    def pictures(self, split: Split, disturbance: Disturbance, class_index: int) -> Pictures:
        """All pictures of one class."""


class RenderedSigns:
    """Our own renderer's pictures."""

    labels = LABELS

    def __init__(self, *, train_per_class: int, held_out_per_class: int, seed: int) -> None:
        self._per_class = {Split.TRAIN: train_per_class, Split.HELD_OUT: held_out_per_class}
        self._seed = seed

    def fingerprint(self, split: Split) -> str:
        return f"rendered {self._per_class[split]} {self._seed}"

    def pictures(self, split: Split, disturbance: Disturbance, class_index: int) -> Pictures:
        seed = self._seed + (HELD_OUT_OFFSET if split is Split.HELD_OUT else 0)
        made = [sample(number, class_index, seed, disturbance) for number in range(self._per_class[split])]
        pixels = np.stack([np.asarray(Image.open(io.BytesIO(one.jpeg))) for one in made])
        return Pictures(pixels, np.full(len(made), class_index, np.int64))


class FolderOfSigns:
    """Photographs in train/CLASS/ and val/CLASS/, with an optional classes.csv (class_index, name).

    Photographs count as clear; for harsh ones the light, the weather and the camera are added to them.
    """

    def __init__(self, root: Path, *, seed: int) -> None:
        """Raises ValueError when the folder is not laid out like this."""
        missing = [str(root / split) for split in Split if not (root / split).is_dir()]
        if missing:
            raise ValueError(f"there is no folder {' or '.join(missing)}")
        self._root = root
        self._seed = seed
        self._folders = sorted(folder.name for folder in (root / Split.TRAIN).iterdir() if folder.is_dir())
        self.labels = _names(root / "classes.csv") or tuple(self._folders)
        if len(self.labels) != len(self._folders):
            raise ValueError(f"{root} has {len(self._folders)} folders and {len(self.labels)} names of classes")

    def fingerprint(self, split: Split) -> str:
        files = sum(len(self._files(split, class_index)) for class_index in range(len(self._folders)))
        return f"folder {self._root.resolve()} {files} {self._seed}"

    def pictures(self, split: Split, disturbance: Disturbance, class_index: int) -> Pictures:
        files = self._files(split, class_index)
        rngs = (np.random.default_rng([self._seed, class_index, number]) for number in range(len(files)))
        made = [_photograph(path, disturbance, rng) for path, rng in zip(files, rngs, strict=True)]
        pixels = np.stack(made) if made else np.zeros((0, SIDE, SIDE, 3), np.uint8)
        return Pictures(pixels, np.full(len(made), class_index, np.int64))

    def _files(self, split: Split, class_index: int) -> list[Path]:
        folder = self._root / split / self._folders[class_index]
        return sorted(path for path in folder.glob("*") if path.suffix.lower() in PHOTOGRAPHS)


def _photograph(path: Path, disturbance: Disturbance, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    with Image.open(path) as opened:
        picture = opened.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    if disturbance is CLEAR:
        return np.asarray(picture)
    effects.precipitate(picture, disturbance, rng)
    seen = np.asarray(effects.blur(picture, disturbance, rng), np.float32) / np.float32(255)
    return effects.sense(effects.light(seen, disturbance, rng), disturbance, rng)


def _names(path: Path) -> tuple[str, ...]:
    if not path.exists():
        return ()
    with path.open(newline="", encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    return tuple(row["name"] for row in sorted(rows, key=lambda row: int(row["class_index"])))
