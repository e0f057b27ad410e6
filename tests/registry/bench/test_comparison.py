"""A whole run on a small network: by the product's own commands, beside a general tool, judged on pictures never seen."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from model_registry.bench.comparison import CONTENT, EXACT, FLOAT16, FLOAT32, OURS, Comparison, Row
from model_registry.bench.peers import PEERS
from model_registry.bench.reference import Split
from model_registry.bench.scenarios import Change, FirstVersion, Pictures, Training, Update
from model_registry.bench.table import Result, show, to_json
from model_registry.contract.limits import MIB
from model_registry.contract.preprocessing import Preprocessing
from model_registry.models.evaluation import Sample
from model_registry.models.importing import Format, import_file
from model_registry.models.safetensors_file import write_safetensors
from tests.registry.networks import changed, foreign_onnx

CLASSES = 40
SMALL = Preprocessing((16, 16), None, "RGB", (128.0, 128.0, 128.0), (0.02, 0.02, 0.02))
FIRST = FirstVersion("first", "one", "the first version")
SECOND = Update("second", "one", "two", "the head moved", Change.FEW)
TRAININGS = {name: Training(None, Pictures.SIGNS, CLASSES) for name in ("one", "two")}


def small_split(folder: Path) -> Split:
    rng = np.random.default_rng(0)
    samples = []
    for index in range(8):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / f"{index}.png")
        samples.append(Sample(folder / f"{index}.png", index % CLASSES))
    return Split(tuple(samples[::2]), tuple(samples[1::2]), SMALL, ())


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> tuple[Row, Row]:
    """A first version and an update of its head, measured once for all tests."""
    folder = tmp_path_factory.mktemp("bench")
    first = import_file(foreign_onnx(folder / "one.onnx", classes=CLASSES), Format.ONNX, preprocessing=SMALL)
    second = replace(first, weights=changed(first.weights, "head", by=0.2))
    networks = {"one": folder / "one.safetensors", "two": folder / "two.safetensors"}
    for path, checkpoint in zip(networks.values(), (first, second), strict=True):
        path.write_bytes(write_safetensors(checkpoint.weights, checkpoint.description))
    split = small_split(folder)
    xz = [peer for peer in PEERS if peer.name == "xz"]
    comparison = Comparison(networks, lambda _: split, folder, peers=xz, trainings=TRAININGS)
    return comparison.row(FIRST), comparison.row(SECOND)


def test_every_coding_of_a_run_decodes(rows: tuple[Row, Row]) -> None:
    for row in rows:
        assert row.broken == []
        assert row.failed == ()
        assert all(coding.decodes for codings in row.codings.values() for coding in codings)
        assert {coding.coder for coding in row.codings[CONTENT]} == {"xz"}


def test_an_update_is_measured_on_every_input(rows: tuple[Row, Row]) -> None:
    first, second = rows
    assert set(second.codings) == {OURS, EXACT, CONTENT, FLOAT16, FLOAT32}
    assert {coding.coder for coding in second.codings[OURS]} == {"full", "delta model", "delta bsdiff4", "delta zstd"}
    full, delta = first.best(OURS), second.best(OURS)
    assert full is not None
    assert delta is not None
    assert delta.bytes < full.bytes
    assert delta.decode.cpu_s > 0
    assert delta.decode.peak_bytes < 64 * MIB


def test_what_is_lost_is_measured_on_pictures_never_seen(rows: tuple[Row, Row]) -> None:
    delivered = rows[1].delivered
    assert delivered is not None
    assert 0 <= delivered.lost < 0.5
    assert delivered.after.images == 4
    assert rows[1].lost_said is not None
    assert {name: seen.images for name, seen in rows[0].accuracy.items()} == {"held out": 4, "all pictures": 8}


def test_the_result_is_told_to_people_and_to_scripts(rows: tuple[Row, Row]) -> None:
    result = Result(rows, {"xz": "1", "xdelta3": None}, {"cpu": "one"}, ("third: not compressed",))
    assert result.broken == ["third: not compressed"]
    value = json.loads(json.dumps(to_json(result)))
    assert value["missing"] == ["xdelta3"]
    assert value["rows"][1]["ratios"]["content"] > 1
    printed = StringIO()
    show(result, Console(width=220, file=printed))
    text = printed.getvalue()
    assert "missing, so not in the tables (make bench-peers installs them): xdelta3" in text
    for word in ("second", "delta model", "Targets", "not measured", "third: not compressed"):
        assert word in text
