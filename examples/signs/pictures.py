"""The pictures that the recipe learns from and is judged on: rendered here, or read from a folder of photographs.

A source knows its labels and gives, for a split and a disturbance, pictures of its first so many classes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
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

Progress = Callable[[float], None]
# Held-out pictures come from seeds that no training run reaches.
HELD_OUT_OFFSET = 2**31


class Split(StrEnum):
    """The names of the folders, too."""

    TRAIN = "train"
    HELD_OUT = "val"


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """RGB pixels (n, side, side, 3) and class indices (n)."""

    pixels: npt.NDArray[np.uint8]
    classes: npt.NDArray[np.int64]

    def __add__(self, other: Pictures) -> Pictures:
        return Pictures(np.concatenate([self.pixels, other.pixels]), np.concatenate([self.classes, other.classes]))


class Source(Protocol):
    """Where pictures come from; ``fingerprint`` tells sources apart, so that no half-trained network changes horses."""

    labels: tuple[str, ...]
    fingerprint: str

    def pictures(self, split: Split, disturbance: Disturbance, classes: int, progress: Progress) -> Pictures:
        """Pictures of the first ``classes`` labels."""


class RenderedSigns:
    """Our own renderer's pictures."""

    labels = LABELS

    def __init__(self, *, train_per_class: int, held_out_per_class: int, seed: int) -> None:
        self._per_class = {Split.TRAIN: train_per_class, Split.HELD_OUT: held_out_per_class}
        self._seed = seed
        self.fingerprint = f"rendered {train_per_class} {seed}"

    def pictures(self, split: Split, disturbance: Disturbance, classes: int, progress: Progress) -> Pictures:
        per_class = self._per_class[split]
        seed = self._seed + (HELD_OUT_OFFSET if split is Split.HELD_OUT else 0)
        pixels = np.empty((classes * per_class, SIDE, SIDE, 3), np.uint8)
        indices = np.repeat(np.arange(classes, dtype=np.int64), per_class)
        for position, class_index in enumerate(indices):
            made = sample(position % per_class, int(class_index), seed, disturbance)
            pixels[position] = np.asarray(Image.open(io.BytesIO(made.jpeg)))
            progress((position + 1) / len(indices))
        return Pictures(pixels, indices)


class FolderOfSigns:
    """Photographs in train/CLASS/ and val/CLASS/, with an optional classes.csv (class_index, name).

    Photographs count as clear; for harsh ones the light, the weather and the camera are added to them.
    """

    def __init__(self, root: Path, *, seed: int) -> None:
        self._root = root
        self._seed = seed
        self._folders = sorted(folder for folder in (root / Split.TRAIN).iterdir() if folder.is_dir())
        self.labels = _names(root / "classes.csv") or tuple(folder.name for folder in self._folders)
        if len(self.labels) != len(self._folders):
            raise ValueError(f"{root} has {len(self._folders)} folders and {len(self.labels)} names of classes")
        self.fingerprint = f"folder {root.resolve()} {seed}"

    def pictures(self, split: Split, disturbance: Disturbance, classes: int, progress: Progress) -> Pictures:
        files = [
            (path, index)
            for index, folder in enumerate(self._folders[:classes])
            for path in sorted((self._root / split / folder.name).iterdir())
        ]
        pixels = np.empty((len(files), SIDE, SIDE, 3), np.uint8)
        for position, (path, _) in enumerate(files):
            pixels[position] = self._photograph(path, disturbance, position)
            progress((position + 1) / len(files))
        return Pictures(pixels, np.array([index for _, index in files], np.int64))

    def _photograph(self, path: Path, disturbance: Disturbance, position: int) -> npt.NDArray[np.uint8]:
        with Image.open(path) as opened:
            picture = opened.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        if disturbance is CLEAR:
            return np.asarray(picture)
        rng = np.random.default_rng([self._seed, position])
        effects.precipitate(picture, disturbance, rng)
        seen = np.asarray(effects.blur(picture, disturbance, rng), np.float32) / np.float32(255)
        return effects.sense(effects.light(seen, disturbance, rng), disturbance, rng)


def _names(path: Path) -> tuple[str, ...]:
    if not path.exists():
        return ()
    with path.open(newline="", encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    return tuple(row["name"] for row in sorted(rows, key=lambda row: int(row["class_index"])))
