"""What lies between a clean road sign and a camera's picture of it: weather, dirt, light, motion, lens, sensor.

Two strengths are fixed. ``CLEAR``: an ordinary day and a good camera. ``HARSH``: winter, with snow, fog, dirt, glare and
a shaken camera. Every function draws its randomness from the generator it is given and from nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

Pixels = npt.NDArray[np.float32]
Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Disturbance:
    """Largest strengths; each picture draws its own between nothing and these.

    Shares are of the picture's side or of full white; the ``*_chance`` fields are probabilities.
    """

    name: str
    tilt_deg: float
    perspective: float
    smallest_sign: float
    off_centre: float
    cast: float
    darkest: float
    shadow_chance: float
    occlusion_chance: float
    largest_occlusion: float
    dirt_spots: int
    fading: float
    fog: float
    precipitation: int
    glare_chance: float
    motion_share: float
    defocus_share: float
    noise: float
    jpeg_quality: tuple[int, int]


CLEAR = Disturbance(
    name="clear",
    tilt_deg=10,
    perspective=0.1,
    smallest_sign=0.6,
    off_centre=0.08,
    cast=0.1,
    darkest=0.6,
    shadow_chance=0.3,
    occlusion_chance=0.1,
    largest_occlusion=0.15,
    dirt_spots=2,
    fading=0.2,
    fog=0.1,
    precipitation=0,
    glare_chance=0.05,
    motion_share=0.03,
    defocus_share=0.012,
    noise=0.025,
    jpeg_quality=(60, 95),
)
HARSH = Disturbance(
    name="harsh",
    tilt_deg=18,
    perspective=0.18,
    smallest_sign=0.5,
    off_centre=0.13,
    cast=0.25,
    darkest=0.35,
    shadow_chance=0.6,
    occlusion_chance=0.5,
    largest_occlusion=0.3,
    dirt_spots=12,
    fading=0.5,
    fog=0.4,
    precipitation=60,
    glare_chance=0.3,
    motion_share=0.06,
    defocus_share=0.018,
    noise=0.05,
    jpeg_quality=(25, 85),
)
DISTURBANCES = {disturbance.name: disturbance for disturbance in (CLEAR, HARSH)}


def weather_plate(plate: Image.Image, strength: Disturbance, rng: np.random.Generator) -> Image.Image:
    """Fade and soil the sign itself: an RGBA picture in, another out; the outline stays."""
    pixels = np.asarray(plate, np.float32).copy()
    alpha = pixels[..., 3:].copy()
    grey = pixels[..., :3].mean(axis=2, keepdims=True)
    fading = rng.uniform(0, strength.fading)
    pixels[..., :3] = pixels[..., :3] * (1 - fading) + (0.6 * grey + 70) * fading
    faded = Image.fromarray(pixels.astype(np.uint8), "RGBA")
    _soil(faded, int(rng.integers(0, strength.dirt_spots + 1)), rng)
    result = np.array(faded)
    result[..., 3:] = alpha
    return Image.fromarray(result, "RGBA")


def _soil(plate: Image.Image, spots: int, rng: np.random.Generator) -> None:
    side = plate.width
    for _ in range(spots):
        colour = (236, 240, 244) if rng.random() < 0.3 else (int(rng.integers(50, 110)), int(rng.integers(40, 85)), 40)
        mask = Image.new("L", plate.size, 0)
        centre, radius = rng.uniform(0, side, 2), rng.uniform(0.03, 0.13) * side
        points = [
            tuple(centre + radius * rng.uniform(0.5, 1) * np.array([math.cos(a), math.sin(a)])) for a in np.linspace(0, 5.6, 9)
        ]
        ImageDraw.Draw(mask).polygon(points, fill=int(rng.integers(90, 230)))
        plate.paste(colour, (0, 0), mask.filter(ImageFilter.BoxBlur(side * 0.012)))


def occlude(
    scene: Image.Image, centre: tuple[float, float], extent: float, strength: Disturbance, rng: np.random.Generator
) -> None:
    """Put a branch with leaves or a post before the sign at ``centre`` (pixels), from its rim inward; draws on ``scene``."""
    if rng.random() >= strength.occlusion_chance:
        return
    draw = ImageDraw.Draw(scene)
    direction, depth = rng.uniform(0, 2 * math.pi), rng.uniform(0.05, strength.largest_occlusion) * extent
    rim = np.array(centre) + (extent / 2 - depth / 2) * np.array([math.cos(direction), math.sin(direction)])
    if rng.random() < 0.25:
        across = np.array([-math.sin(direction), math.cos(direction)]) * scene.width
        draw.line([*(rim - across), *(rim + across)], fill=_muted(rng), width=max(2, round(depth * 0.5)))
        return
    for _ in range(int(rng.integers(6, 16))):
        leaf, size = rng.normal(rim, depth * 0.6), rng.uniform(0.15, 0.4) * depth + 2
        turn = rng.uniform(0, math.pi, 1)[0]
        tip = np.array([math.cos(turn), math.sin(turn)]) * size
        side = np.array([-tip[1], tip[0]]) * 0.5
        draw.polygon([tuple(leaf + v) for v in (tip, side, -tip, -side)], fill=_leaf(rng))


def _leaf(rng: np.random.Generator) -> Colour:
    return int(rng.integers(30, 110)), int(rng.integers(60, 130)), int(rng.integers(20, 60))


def _muted(rng: np.random.Generator) -> Colour:
    grey = int(rng.integers(40, 150))
    return grey, grey, min(255, grey + int(rng.integers(0, 15)))


def light(pixels: Pixels, strength: Disturbance, rng: np.random.Generator) -> Pixels:
    """Exposure, colour cast, a shadow's edge, glare and fog; pixels (height, width, 3) from 0 to 1."""
    height, width = pixels.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / width
    gain = rng.uniform(strength.darkest, 1.15) * (1 + rng.uniform(-1, 1, 3) * strength.cast)
    shade = np.ones((height, width), np.float32)
    if rng.random() < strength.shadow_chance:
        shade -= rng.uniform(0.2, 0.6) * _edge(x, y, rng, softness=rng.uniform(0.01, 0.15))
    lit = pixels ** rng.uniform(0.85, 1.2) * gain * shade[..., np.newaxis]
    if rng.random() < strength.glare_chance:
        sun, spread = rng.uniform(0, 1, 2), rng.uniform(0.1, 0.35)
        flare = np.exp(-((x - sun[0]) ** 2 + (y - sun[1]) ** 2) / spread**2) * rng.uniform(0.2, 0.7)
        lit = lit + flare[..., np.newaxis]
    fog = rng.uniform(0, strength.fog)
    return np.asarray(lit * (1 - fog) + fog * rng.uniform(0.45, 0.85), dtype=np.float32)


def _edge(x: Pixels, y: Pixels, rng: np.random.Generator, softness: float) -> Pixels:
    direction, offset = rng.uniform(0, 2 * math.pi), rng.uniform(-0.3, 0.3)
    distance = (x - 0.5) * math.cos(direction) + (y - 0.5) * math.sin(direction) - offset
    return np.asarray(1 / (1 + np.exp(-np.clip(distance / softness, -30, 30))), dtype=np.float32)


def precipitate(scene: Image.Image, strength: Disturbance, rng: np.random.Generator) -> None:
    """Snow flakes or streaks of rain between camera and sign; draws on ``scene``."""
    count = int(rng.integers(0, strength.precipitation + 1))
    if not count or rng.random() < 0.4:
        return
    draw = ImageDraw.Draw(scene, "RGBA")
    side, snow = scene.width, rng.random() < 0.6
    slant, length = rng.uniform(-0.4, 0.4), rng.uniform(0.04, 0.14) * side
    for x, y, size in zip(rng.uniform(0, side, count), rng.uniform(0, side, count), rng.uniform(0.3, 1, count), strict=True):
        if snow:
            r = size * side * 0.016
            draw.ellipse([x - r, y - r, x + r, y + r], fill=(244, 246, 250, int(110 + 130 * size)))
        else:
            draw.line([x, y, x + slant * length, y + length * size], fill=(215, 220, 228, 110), width=max(1, side // 160))


def blur(scene: Image.Image, strength: Disturbance, rng: np.random.Generator) -> Image.Image:
    """Defocus, then motion along one direction."""
    radius = rng.uniform(0, strength.defocus_share) * scene.width
    soft = scene.filter(ImageFilter.GaussianBlur(radius)) if radius > 0.2 else scene
    length, direction = rng.uniform(0, strength.motion_share) * scene.width, rng.uniform(0, math.pi)
    steps = round(length)
    if steps < 2:
        return soft
    source = np.asarray(soft, np.float32)
    total = np.zeros_like(source)
    for step in np.linspace(-length / 2, length / 2, steps):
        shift = (round(step * math.sin(direction)), round(step * math.cos(direction)))
        total += _shifted(source, *shift)
    return Image.fromarray((total / steps).astype(np.uint8))


def _shifted(pixels: Pixels, down: int, right: int) -> Pixels:
    """Move a picture, repeating its rim."""
    rows = np.clip(np.arange(pixels.shape[0]) - down, 0, pixels.shape[0] - 1)
    columns = np.clip(np.arange(pixels.shape[1]) - right, 0, pixels.shape[1] - 1)
    return pixels[rows][:, columns]


def sense(pixels: Pixels, strength: Disturbance, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """The sensor's noise (its part that grows with light, and its floor) and 8 bits."""
    level = rng.uniform(0, strength.noise)
    noise = rng.normal(0, 1, pixels.shape) * level * np.sqrt(0.3 + np.clip(pixels, 0, 1))
    return np.asarray(np.clip((pixels + noise) * 255, 0, 255), dtype=np.uint8)
