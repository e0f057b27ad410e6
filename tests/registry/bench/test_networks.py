"""Networks are made once, whole or not at all, and again when their recipe changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model_registry.bench.networks import NetworkCache, with_starts
from model_registry.bench.reference import ReferenceData
from model_registry.bench.running import compare
from model_registry.bench.scenarios import SCENARIOS, TRAININGS, Phase, Pictures, Training, Update
from model_registry.contract.errors import MalformedArtifact
from model_registry.models.safetensors_file import read_safetensors
from tests.registry.models.test_importing import deep_compression_file

START = Training(None, Pictures.SIGNS, 1000)
SIGNS = Training("start", Pictures.SIGNS, 2, (Phase(1, 1e-3, ("classifier.*",)),), batch=4, new_head=True)
TINY: Mapping[str, Training] = {"start": START, "signs": SIGNS, "later": replace(SIGNS, start="signs", new_head=False)}


@pytest.fixture
def data(tmp_path: Path) -> ReferenceData:
    """A folder of the form of the reference data, with two classes of signs."""
    folder = tmp_path / "data"
    network = folder / "squeezenet-deep-compression" / "compressed_SqueezeNet.net"
    network.parent.mkdir(parents=True)
    network.write_bytes(deep_compression_file())
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for label in ("00000", "00001"):
            (folder / "gtsrb" / part / label).mkdir(parents=True)
            Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(folder / "gtsrb" / part / label / "0.png")
    (folder / "gtsrb" / "classes.csv").write_text("class_index,name\n0,left\n1,right\n")
    return ReferenceData(folder)


def test_a_network_is_made_once_with_its_description(tmp_path: Path, data: ReferenceData) -> None:
    made = NetworkCache(tmp_path / "cache", data, TINY).make(["later"])
    assert list(made) == ["start", "signs", "later"]
    weights, description = read_safetensors(made["signs"].read_bytes())
    assert weights["classifier.1.weight"].shape[0] == 2
    assert description.labels == ("left", "right")
    assert description.preprocessing is not None
    stamps = {name: path.stat().st_mtime_ns for name, path in made.items()}
    again = NetworkCache(tmp_path / "cache", data, TINY).make(["later"])
    assert {name: path.stat().st_mtime_ns for name, path in again.items()} == stamps


def test_a_run_that_was_stopped_goes_on_with_what_is_missing(tmp_path: Path, data: ReferenceData) -> None:
    made = NetworkCache(tmp_path / "cache", data, TINY).make(["later"])
    first, second = (made[name].read_bytes() for name in ("signs", "later"))
    made["later"].unlink()
    started: list[str] = []
    again = NetworkCache(tmp_path / "cache", data, TINY).make(
        ["later"], lambda name, share, _: started.append(name) if share < 1 else None
    )
    assert set(started) <= {"later"}
    assert (again["signs"].read_bytes(), again["later"].read_bytes()) == (first, second)


def test_a_changed_recipe_names_other_files_down_the_line(tmp_path: Path, data: ReferenceData) -> None:
    before = NetworkCache(tmp_path, data, TINY)
    after = NetworkCache(tmp_path, data, dict(TINY) | {"signs": replace(SIGNS, seed=2)})
    assert before.path("start") == after.path("start")
    assert before.path("signs") != after.path("signs")
    assert before.path("later") != after.path("later")


def test_what_a_network_starts_from_comes_with_it() -> None:
    assert with_starts(["signs-class-more"]) == ["imagenet", "signs-42", "signs-class-more"]


def test_every_scenario_is_about_networks_that_can_be_made() -> None:
    for scenario in SCENARIOS:
        names = {scenario.network} | ({scenario.base} if isinstance(scenario, Update) else set())
        assert names <= set(TRAININGS), scenario.name


def test_a_network_that_cannot_be_compressed_is_told_and_does_not_stop_the_run(tmp_path: Path, data: ReferenceData) -> None:
    place = data.folder / "imagenet-sample"
    (place / "images").mkdir(parents=True)
    Image.fromarray(np.zeros((256, 256, 3), np.uint8)).save(place / "images" / "0.png")
    (place / "labels.csv").write_text("file,class_index\n0.png,0\n")
    networks = NetworkCache(tmp_path / "cache", data)
    networks.path("imagenet").parent.mkdir()
    networks.path("imagenet").write_bytes(b"no network")
    result = compare(networks, ["imagenet"], workspace=tmp_path, with_peers=False, progress=lambda *_: None)
    assert result.rows == ()
    assert len(result.broken) == 1
    assert result.broken[0].startswith("imagenet: imagenet-")


def test_missing_reference_data_is_refused_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(MalformedArtifact, match="no reference data at"):
        ReferenceData.at(tmp_path / "nowhere")
