"""The renderer gives the same pictures for the same seed, and pictures that a reader can tell apart."""

from __future__ import annotations

import io
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from examples.signs.disturbance import CLEAR, HARSH, Disturbance
from examples.signs.faces import LABELS, face
from examples.signs.render import main, samples


def pixels(jpeg: bytes) -> npt.NDArray[np.float32]:
    return np.asarray(Image.open(io.BytesIO(jpeg)), np.float32)


@pytest.mark.parametrize("disturbance", [CLEAR, HARSH], ids=lambda d: d.name)
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(disturbance: Disturbance) -> None:
    first = samples(30, seed=7, disturbance=disturbance)
    assert samples(30, seed=7, disturbance=disturbance) == first
    assert not {s.jpeg for s in first} & {s.jpeg for s in samples(30, seed=8, disturbance=disturbance)}


def test_no_two_pictures_of_a_set_are_equal() -> None:
    assert len({s.jpeg for s in samples(90, seed=1)}) == 90


def test_a_larger_set_begins_with_the_smaller_one() -> None:
    assert samples(40, seed=3)[:20] == samples(20, seed=3)


def test_a_class_more_leaves_the_pictures_of_the_others_as_they_were() -> None:
    fewer = LABELS[:-1]
    before = {(s.label, s.jpeg) for s in samples(2 * len(fewer), seed=5, labels=fewer)}
    assert before < {(s.label, s.jpeg) for s in samples(2 * len(LABELS), seed=5)}


def test_classes_come_in_turn_with_their_labels() -> None:
    made = samples(2 * len(LABELS), seed=1)
    assert [s.class_index for s in made] == [*range(len(LABELS))] * 2
    assert all(s.label == LABELS[s.class_index] for s in made)


def test_there_are_at_least_twelve_signs_and_every_two_of_them_look_different() -> None:
    assert len(LABELS) >= 12
    faces = {label: np.asarray(face(label, 64), np.float32) for label in LABELS}
    # The closest pair are two speed limits: one digit of two differs.
    assert min(float(np.abs(faces[a] - faces[b]).mean()) for a, b in combinations(LABELS, 2)) > 2.0


def test_a_face_is_transparent_outside_the_sign_and_opaque_inside() -> None:
    for label in LABELS:
        alpha = np.asarray(face(label, 64))[..., 3]
        assert alpha[32, 32] == 255
        assert alpha[-1, 0] == 0


def test_in_winter_a_sign_is_further_from_what_it_looks_like_in_clear_weather() -> None:
    def distance(disturbance: Disturbance) -> float:
        """How far the pictures of a sign are from their own average, in units of their contrast."""
        sets = [samples(40, seed=2, disturbance=disturbance, labels=[label]) for label in ("stop", "yield", "roundabout")]
        stacks = [np.stack([pixels(s.jpeg) for s in one]) for one in sets]
        return float(np.mean([stack.std(axis=0).mean() / stack.mean(axis=0).std() for stack in stacks]))

    assert distance(HARSH) > 1.2 * distance(CLEAR)


def test_the_command_writes_one_folder_for_each_class(tmp_path: Path) -> None:
    main(
        [
            "--out",
            str(tmp_path / "signs"),
            "--per-class",
            "2",
            "--seed",
            "4",
            "--side",
            "48",
            "--sheet",
            str(tmp_path / "sheet.png"),
        ]
    )
    folders = sorted(p.name for p in (tmp_path / "signs").iterdir())
    assert [name.split(" ", 1)[1] for name in folders] == list(LABELS)
    files = [path for folder in (tmp_path / "signs").iterdir() for path in folder.iterdir()]
    assert len(files) == 2 * len(LABELS)
    assert {Image.open(path).size for path in files} == {(48, 48)}
    assert Image.open(tmp_path / "sheet.png").size == (len(LABELS) * 50, 6 * 50)
