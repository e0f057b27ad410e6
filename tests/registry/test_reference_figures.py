"""The figures that are promised on real weights and real pictures."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reference import DEEP_COMPRESSION, IMAGENET_SAMPLE
from tests.registry.cli.conftest import Command, deltafleet

__all__ = ["deltafleet"]

pytestmark = [
    pytest.mark.reference_data,
    pytest.mark.usefixtures("reference_data"),
    pytest.mark.xdist_group("reference_figures"),
]
FIRST, AMONG_FIVE, PICTURES = 317, 424, 500


@pytest.fixture
def imported(tmp_path: Path, deltafleet: Command) -> Path:
    target = tmp_path / "real.safetensors"
    done = deltafleet("import", DEEP_COMPRESSION, "--format", "deep-compression", "-o", target, "--json")
    assert done.json()["parameters"] == 1_248_424
    return target


@pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
def test_lossless_keeps_every_answer(tmp_path: Path, deltafleet: Command, imported: Path, engine: str) -> None:
    assert deltafleet("compress", imported, "-o", tmp_path / "real.dfm", "--lossless").code == 0
    seen = deltafleet("evaluate", tmp_path / "real.dfm", "--data", IMAGENET_SAMPLE, "--engine", engine, "--json").json()
    assert (seen["images"], seen["top1"], seen["top5"]) == (PICTURES, FIRST / PICTURES, AMONG_FIVE / PICTURES)


def test_defaults_stay_within_the_promised_bytes_and_points(tmp_path: Path, deltafleet: Command, imported: Path) -> None:
    made = deltafleet("compress", imported, "-o", tmp_path / "real.dfm", "--arch", "squeezenet1_0", "--json").json()
    assert made["bytes"] == (tmp_path / "real.dfm").stat().st_size <= 520_000
    seen = deltafleet("evaluate", tmp_path / "real.dfm", "--data", IMAGENET_SAMPLE, "--json").json()
    assert seen["top1"] >= (FIRST - 2.5) / PICTURES


def test_an_onnx_export_of_the_real_network_compresses_as_well(tmp_path: Path, deltafleet: Command, imported: Path) -> None:
    assert deltafleet("compress", imported, "-o", tmp_path / "a.dfm", "--lossless").code == 0
    assert deltafleet("export", tmp_path / "a.dfm", "-o", tmp_path / "a.onnx").code == 0
    made = deltafleet("compress", tmp_path / "a.onnx", "-o", tmp_path / "b.dfm", "--json").json()
    assert made["architecture"] == "onnx"
    assert made["bytes"] <= 520_000
