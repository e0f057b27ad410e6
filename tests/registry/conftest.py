"""Torch keeps to one thread: tests share their cores."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.registry.networks import random_weights, save

torch.set_num_threads(1)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A small dense network as a safetensors file."""
    return save(tmp_path / "network.safetensors", random_weights())
