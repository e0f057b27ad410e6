"""From a picture to a network's input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from model_registry.contract.errors import ManifestRefused
from model_registry.contract.preprocessing import Preprocessing, resize_bilinear

PLAIN = {"resize": [4, 4], "crop": None, "order": "RGB", "mean": [0, 0, 0], "scale": 1}


def read(**changes: Any) -> Preprocessing:
    return Preprocessing.from_json(PLAIN | changes)


def test_one_scale_stands_for_three() -> None:
    assert read(scale=0.5) == read(scale=[0.5, 0.5, 0.5])


def test_its_json_reads_back() -> None:
    made = read(crop=[3, 2], order="BGR", mean=[1, 2, 3], scale=[0.5, 1, 2])
    assert Preprocessing.from_json(made.to_json()) == made


@pytest.mark.parametrize(
    "changes",
    [
        {"resize": [4]},
        {"resize": [0, 4]},
        {"resize": [4, 10**6]},
        {"crop": [5, 4]},
        {"crop": "centre"},
        {"crop": 3},
        {"crop": False},
        {"crop": {}},
        {"order": "GRB"},
        {"mean": [1, 2]},
        {"mean": ["1", 2, 3]},
        {"scale": [1, 2]},
        {"scale": None},
        {"scale": float("nan")},
        {"rotate": 90},
    ],
)
def test_wrong_values_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ManifestRefused):
        read(**changes)


def test_order_mean_and_scale_apply_per_channel_in_the_networks_order() -> None:
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[..., 0], picture[..., 1], picture[..., 2] = 10, 20, 30
    found = read(order="BGR", mean=[1, 2, 3], scale=[1, 10, 100]).apply(picture)
    assert found.shape == (1, 3, 4, 4)
    assert found.dtype == np.float32
    assert found[0, :, 0, 0].tolist() == [29.0, 180.0, 700.0]


def test_the_crop_is_centred_with_its_offset_rounded_down() -> None:
    picture = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
    found = read(resize=[5, 4], crop=[2, 3]).apply(picture)
    assert found[0].transpose(1, 2, 0).tolist() == picture[1:3, 0:3].astype(float).tolist()


def test_resizing_is_within_a_grey_level_of_pillow() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (61, 47, 3)).astype(np.uint8)
    for size in ((30, 40), (90, 100), (61, 20)):
        expected = np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.BILINEAR), np.float32)
        assert np.abs(resize_bilinear(picture.astype(np.float32), size) - expected).max() <= 1


@pytest.mark.parametrize("picture", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))])
def test_what_is_no_picture_is_refused(picture: Any) -> None:
    with pytest.raises(ManifestRefused):
        read().apply(picture)
