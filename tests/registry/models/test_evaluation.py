"""Reading labelled pictures, and counting right answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model_registry.contract.errors import MalformedArtifact, ModelUnusable
from model_registry.models import evaluation
from model_registry.models.evaluation import Floats, Sample, evaluate, labelled, pictures, spread
from tests.registry.networks import SMALL


def picture(path: Path, grey: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (60, 50), (grey, grey, grey)).save(path)
    return path


def by_brightness(network_input: Floats) -> Floats:
    """Six classes from dark to bright; the nearest first."""
    grey = float(network_input.mean()) / 0.02 + 128
    return np.asarray(-np.abs(np.arange(6) * 50 - grey), np.float32)


def test_folders_are_classes_in_sorted_order(tmp_path: Path) -> None:
    picture(tmp_path / "b" / "1.png", 50)
    picture(tmp_path / "a" / "2.png", 0)
    (tmp_path / "a" / "notes.txt").write_text("no picture")
    assert [(s.path.name, s.label) for s in labelled(tmp_path)] == [("2.png", 0), ("1.png", 1)]


def test_a_table_names_files_and_classes(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "x.png", 0)
    (tmp_path / "labels.csv").write_text("file,class_index,name\nx.png,4,four\n")
    assert labelled(tmp_path) == [Sample(tmp_path / "images" / "x.png", 4)]


@pytest.mark.parametrize("text", ["", "name\nx\n", "file,class_index\nx.png,four\n"])
def test_a_bad_table_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(MalformedArtifact):
        labelled(tmp_path)


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    for find in (labelled, pictures):
        with pytest.raises(MalformedArtifact):
            find(tmp_path)
        with pytest.raises(MalformedArtifact):
            find(tmp_path / "absent")


def test_first_and_fifth_answers_are_counted(tmp_path: Path) -> None:
    samples = [Sample(picture(tmp_path / f"{grey}.png", grey), label) for grey, label in ((0, 0), (50, 2), (250, 0), (200, 4))]
    seen: list[float] = []
    accuracy = evaluate(by_brightness, SMALL, samples, lambda share, _: seen.append(share))
    assert (accuracy.images, accuracy.top1, accuracy.top5) == (4, 0.5, 0.75)
    assert seen == [0.25, 0.5, 0.75, 1.0]


def test_a_label_beyond_the_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable, match="6 classes"):
        evaluate(by_brightness, SMALL, [Sample(picture(tmp_path / "a.png", 0), 6)])


def test_unreadable_pictures_are_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = picture(tmp_path / "whole.png", 9).read_bytes()
    for name, data in (("cut.png", whole[:60]), ("text.png", b"hello"), ("empty.png", b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(MalformedArtifact, match=name):
            evaluation.read_picture(tmp_path / name)
    monkeypatch.setattr(evaluation, "MAX_PICTURE_PIXELS", 100)
    with pytest.raises(MalformedArtifact, match="pixels"):
        evaluation.read_picture(tmp_path / "whole.png")


def test_a_sample_of_pictures_is_spread_over_all() -> None:
    paths = [Path(str(index)) for index in range(10)]
    assert [path.name for path in spread(paths, 4)] == ["0", "2", "5", "7"]
    assert spread(paths, 20) == paths
