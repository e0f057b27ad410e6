"""Pictures of road signs as a vehicle's camera sees them, from a seed.

``python -m examples.signs.render --out DIR --per-class N --seed S`` writes one folder for each class. Picture n of a class
depends on the seed, the class, the disturbance and n alone, so sets of different sizes agree in what they share.
"""

from __future__ import annotations

import argparse
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter
from rich.progress import track

from examples.signs import disturbance as effects
from examples.signs.disturbance import CLEAR, DISTURBANCES, Disturbance
from examples.signs.faces import LABELS, face

SIDE = 64
# A scene is drawn this much larger than the picture and averaged down.
SUPERSAMPLING = 2


@dataclass(frozen=True, slots=True)
class Sample:
    """One encoded picture with what it shows."""

    jpeg: bytes
    label: str
    class_index: int


def samples(
    count: int, seed: int, disturbance: Disturbance = CLEAR, *, labels: Sequence[str] = LABELS, side: int = SIDE
) -> list[Sample]:
    """``count`` pictures of ``side`` pixels that take the classes in turn; the same arguments give the same bytes."""
    return [sample(i // len(labels), i % len(labels), seed, disturbance, labels=labels, side=side) for i in range(count)]


def sample(
    number: int, class_index: int, seed: int, disturbance: Disturbance, *, labels: Sequence[str] = LABELS, side: int = SIDE
) -> Sample:
    """Picture ``number`` of one class."""
    label = labels[class_index]
    # The label itself, not its place in a list, so that a class more changes no other picture.
    rng = np.random.default_rng([seed, number, *disturbance.name.encode(), *label.encode()])
    pixels = picture(label, disturbance, rng, side=side)
    return Sample(_jpeg(pixels, int(rng.integers(*disturbance.jpeg_quality))), label, class_index)


def picture(label: str, strength: Disturbance, rng: np.random.Generator, *, side: int = SIDE) -> npt.NDArray[np.uint8]:
    """One RGB picture (side, side, 3), before any JPEG."""
    large = side * SUPERSAMPLING
    scene = _background(large, rng)
    extent = rng.uniform(strength.smallest_sign, 0.94) * large
    centre = tuple(large / 2 + rng.uniform(-1, 1, 2) * strength.off_centre * large)
    _post(scene, (centre[0], centre[1]), extent, rng)
    plate = effects.weather_plate(face(label, large), strength, rng)
    placed = _project(plate, (centre[0], centre[1]), extent, strength, rng)
    scene.paste(placed, (0, 0), placed)
    effects.occlude(scene, (centre[0], centre[1]), extent, strength, rng)
    effects.precipitate(scene, strength, rng)
    seen = effects.blur(scene, strength, rng).reduce(SUPERSAMPLING)
    lit = effects.light(np.asarray(seen, np.float32) / np.float32(255), strength, rng)
    return effects.sense(lit, strength, rng)


def _background(side: int, rng: np.random.Generator) -> Image.Image:
    """A gradient from sky to ground with shapes that could be houses, trees, cars and other signs, out of focus."""
    top, bottom = _sky(rng), rng.integers(30, 150, 3)
    share = np.clip((np.arange(side) / side - rng.uniform(0.2, 0.8)) * rng.uniform(1, 8) + 0.5, 0, 1)[:, np.newaxis, np.newaxis]
    column = top * (1 - share) + bottom * share
    scene = Image.fromarray(np.broadcast_to(column, (side, side, 3)).astype(np.uint8))
    draw = ImageDraw.Draw(scene)
    for _ in range(int(rng.integers(2, 14))):
        _clutter(draw, side, rng)
    texture = Image.fromarray(rng.integers(0, 256, (side // 6, side // 6), dtype=np.uint8)).resize((side, side)).convert("RGB")
    blurred = scene.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.03 * side)))
    return Image.blend(blurred, texture, rng.uniform(0, 0.18))


def _sky(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    kinds = ((130, 170, 220), (200, 205, 210), (60, 90, 50), (150, 130, 110), (40, 45, 60))
    return np.clip(np.array(kinds[int(rng.integers(len(kinds)))]) + rng.normal(0, 22, 3), 0, 255)


def _clutter(draw: ImageDraw.ImageDraw, side: int, rng: np.random.Generator) -> None:
    colour = tuple(int(c) for c in rng.integers(10, 245, 3))
    if rng.random() < 0.75:
        grey = sum(colour) // 3
        colour = tuple((c + 3 * grey) // 4 for c in colour)
    x, y = rng.uniform(-0.2, 1.1, 2) * side
    width, height = rng.uniform(0.03, 0.6, 2) * side
    kind = rng.integers(3)
    if kind == 0:
        draw.rectangle([x, y, x + width, y + height], fill=colour)
    elif kind == 1:
        draw.ellipse([x, y, x + width, y + height], fill=colour)
    else:
        draw.polygon(
            [(x, y), (x + width, y + height * rng.uniform(-1, 1)), (x + width * rng.uniform(-1, 1), y + height)], fill=colour
        )


def _post(scene: Image.Image, centre: tuple[float, float], extent: float, rng: np.random.Generator) -> None:
    if rng.random() < 0.8:
        grey, half = int(rng.integers(70, 190)), extent * rng.uniform(0.02, 0.05)
        ImageDraw.Draw(scene).rectangle([centre[0] - half, centre[1], centre[0] + half, scene.height], fill=(grey, grey, grey))


def _project(
    plate: Image.Image, centre: tuple[float, float], extent: float, strength: Disturbance, rng: np.random.Generator
) -> Image.Image:
    """Turn, scale and skew the plate into a transparent picture of its own size."""
    tilt = math.radians(rng.uniform(-1, 1) * strength.tilt_deg)
    corners = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])
    turned = corners @ np.array([[math.cos(tilt), math.sin(tilt)], [-math.sin(tilt), math.cos(tilt)]])
    skewed = turned * (1 - rng.uniform(0, 1, 2) * strength.perspective) + rng.uniform(-0.5, 0.5, (4, 2)) * strength.perspective
    target = np.array(centre) + skewed * extent
    source = (corners + 0.5) * plate.width
    return plate.transform(plate.size, Image.Transform.PERSPECTIVE, _homography(target, source), Image.Resampling.BICUBIC)


def _homography(target: npt.NDArray[np.float64], source: npt.NDArray[np.float64]) -> list[float]:
    """The eight coefficients with which Pillow finds, for a target pixel, its source."""
    rows, values = [], []
    for (x, y), (u, v) in zip(target, source, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return [float(c) for c in np.linalg.solve(np.array(rows), np.array(values))]


def _jpeg(pixels: npt.NDArray[np.uint8], quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def write_folder(out: Path, per_class: int, seed: int, disturbance: Disturbance, *, side: int = SIDE) -> None:
    """Write ``per_class`` pictures into ``out/00 stop`` and so on: one folder for each class, in the order of the classes."""
    for class_index, label in track(list(enumerate(LABELS)), description="rendering"):
        folder = out / f"{class_index:02d} {label}"
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            made = sample(number, class_index, seed, disturbance, side=side)
            (folder / f"{number:05d}.jpg").write_bytes(made.jpeg)


def contact_sheet(shown: Sequence[Sample], columns: int) -> Image.Image:
    """Pictures side by side, to be looked at."""
    pictures = [Image.open(io.BytesIO(one.jpeg)) for one in shown]
    side = pictures[0].width + 2
    sheet = Image.new("RGB", (columns * side, math.ceil(len(pictures) / columns) * side), (255, 255, 255))
    for position, one in enumerate(pictures):
        sheet.paste(one, (position % columns * side + 1, position // columns * side + 1))
    return sheet


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Render pictures of road signs, one folder for each class.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--per-class", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--disturbance", choices=sorted(DISTURBANCES), default=CLEAR.name)
    parser.add_argument("--side", type=int, default=SIDE, help="pixels")
    parser.add_argument("--sheet", type=Path, help="also write the first six of each class as one picture")
    options = parser.parse_args(arguments)
    strength = DISTURBANCES[options.disturbance]
    write_folder(options.out, options.per_class, options.seed, strength, side=options.side)
    if options.sheet:
        shown = samples(6 * len(LABELS), options.seed, strength, side=options.side)
        contact_sheet(shown, len(LABELS)).save(options.sheet, quality=85)


if __name__ == "__main__":
    main()
