"""A small network and pictures of noise, for what is chosen on pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model_registry.compression.pipeline import SourceNetwork, read_network
from model_registry.compression.recipe import Recipe
from tests.registry.networks import SMALL, foreign_onnx

SIXTEEN = Recipe(preprocessing=replace(SMALL, resize=(16, 16)))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> SourceNetwork:
    return read_network(foreign_onnx(tmp_path_factory.mktemp("foreign") / "network.onnx", classes=400), SIXTEEN)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    pictures = tmp_path_factory.mktemp("pictures")
    for index in range(12):
        small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
        small.resize((48, 48), Image.Resampling.NEAREST).save(pictures / f"{index}.png")
    return pictures


def quiet(_: float, __: str) -> None:
    """Progress that nobody follows."""
