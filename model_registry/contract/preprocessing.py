"""From a picture to a network's input: part of what a model *is*, so it travels in the manifest.

Resize, centre crop (offset rounded down), channel order, subtract the mean in 0..255 units, multiply by the scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from model_registry.contract.errors import ManifestRefused
from model_registry.contract.fields import Fields

ChannelOrder = Literal["RGB", "BGR"]
MAX_SIDE = 4096


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """``resize`` and ``crop`` are (height, width) in pixels; ``mean`` and ``scale`` have one value a channel, in ``order``."""

    resize: tuple[int, int]
    crop: tuple[int, int] | None
    order: ChannelOrder
    mean: tuple[float, float, float]
    scale: tuple[float, float, float]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of what the network sees."""
        return self.crop or self.resize

    def to_json(self) -> dict[str, Any]:
        return {
            "resize": list(self.resize),
            "crop": list(self.crop) if self.crop else None,
            "order": self.order,
            "mean": list(self.mean),
            "scale": list(self.scale),
        }

    @classmethod
    def from_json(cls, value: Any) -> Preprocessing:
        """Read the form of ``--preprocess FILE.json``; ``scale`` may be one number or three. Raises ManifestRefused."""
        fields = Fields(value, ManifestRefused, "preprocessing").only("resize", "crop", "order", "mean", "scale")
        resize = _side_pair(fields, "resize")
        crop = None if value.get("crop") is None else _side_pair(fields, "crop")
        if crop and (crop[0] > resize[0] or crop[1] > resize[1]):
            raise ManifestRefused(f"preprocessing crops {crop} out of {resize}, which is smaller")
        order = fields.text("order")
        if order not in ("RGB", "BGR"):
            raise ManifestRefused("preprocessing.order is neither RGB nor BGR")
        scale = value.get("scale")
        scales = fields.numbers("scale") if isinstance(scale, list) else (fields.number("scale"),) * 3
        return cls(
            resize, crop, "RGB" if order == "RGB" else "BGR", _triple("mean", fields.numbers("mean")), _triple("scale", scales)
        )

    def apply(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Turn an RGB picture (height, width, 3) into the network's input (1, 3, height, width)."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ManifestRefused(f"a picture of shape {image.shape} and type {image.dtype} is not (height, width, 3) uint8")
        picture = image.astype(np.float32)
        if image.shape[:2] != self.resize:
            picture = resize_bilinear(picture, self.resize)
        if self.crop:
            top, left = (self.resize[0] - self.crop[0]) // 2, (self.resize[1] - self.crop[1]) // 2
            picture = picture[top : top + self.crop[0], left : left + self.crop[1]]
        return self.normalise(picture)

    def normalise(self, picture: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Order, mean and scale alone, for RGB pixels (height, width, 3) that already have the network's size."""
        ordered = picture if self.order == "RGB" else picture[:, :, ::-1]
        centred = (ordered - np.asarray(self.mean, np.float32)) * np.asarray(self.scale, np.float32)
        return np.ascontiguousarray(centred.transpose(2, 0, 1)[np.newaxis], dtype=np.float32)


def resize_bilinear(picture: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Separable triangle filter, widened when shrinking so that nothing aliases; rounded to grey levels like a picture."""
    rows = _triangle_weights(picture.shape[0], size[0])
    columns = _triangle_weights(picture.shape[1], size[1])
    resized = np.einsum("yh,hwc,xw->yxc", rows, picture, columns, optimize=True)
    return np.asarray(np.clip(np.rint(resized), 0, 255), dtype=np.float32)


def _triangle_weights(source: int, target: int) -> npt.NDArray[np.float32]:
    ratio = source / target
    reach = max(ratio, 1.0)
    centres = (np.arange(target) + 0.5) * ratio
    distance = np.abs(np.arange(source)[np.newaxis] + 0.5 - centres[:, np.newaxis])
    weights = np.clip(1 - distance / reach, 0, None)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


def _side_pair(fields: Fields, name: str) -> tuple[int, int]:
    sides = fields.integers(name, low=1, high=MAX_SIDE, max_length=2)
    if len(sides) != 2:
        raise ManifestRefused(f"preprocessing.{name} is not [height, width]")
    return sides[0], sides[1]


def _triple(name: str, values: tuple[float, ...]) -> tuple[float, float, float]:
    if len(values) != 3:
        raise ManifestRefused(f"preprocessing.{name} does not have three values")
    return values[0], values[1], values[2]
