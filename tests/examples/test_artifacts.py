"""The bundled road-sign artifacts are what accuracies.json says they are, and the updates between them are real."""

from __future__ import annotations

import io
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from examples.signs.disturbance import DISTURBANCES
from examples.signs.faces import LABELS
from examples.signs.pictures import Pictures
from examples.signs.release import content_logits, top1
from examples.signs.render import samples
from examples.signs.stages import ARCHITECTURE, FAMILY, PREPROCESSING, STAGES
from examples.signs.train import ARTIFACTS
from model_registry.contract.content import Content
from model_registry.contract.delta import apply_delta, read_delta_header
from model_registry.contract.full import decode_full
from model_registry.contract.limits import Limits
from model_registry.contract.session import Session, self_test
from model_registry.deltas import Delta, make_delta

VERSIONS = [stage.version for stage in STAGES]
UPDATES = list(pairwise(VERSIONS))
# A seed that neither training nor the recipe's own figures used.
FRESH_SEED = 990_001
FRESH_PER_CLASS = 16


def path_of(version: str) -> Path:
    return ARTIFACTS / f"{FAMILY}-{version}.dfm"


@pytest.fixture(scope="module")
def contents() -> dict[str, Content]:
    return {version: decode_full(path_of(version).read_bytes()) for version in VERSIONS}


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((ARTIFACTS / "accuracies.json").read_text(encoding="utf-8"))
    return loaded


@pytest.fixture(scope="module")
def deltas(contents: dict[str, Content]) -> dict[tuple[str, str], Delta]:
    return {(old, new): make_delta(contents[old], contents[new]) for old, new in UPDATES}


@pytest.fixture(scope="module")
def fresh() -> dict[str, Pictures]:
    """Pictures of all classes in turn, by disturbance."""
    return {name: _fresh(name) for name in DISTURBANCES}


def _fresh(disturbance: str) -> Pictures:
    made = samples(FRESH_PER_CLASS * len(LABELS), FRESH_SEED, DISTURBANCES[disturbance])
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(one.jpeg))) for one in made])
    return Pictures(pixels, np.array([one.class_index for one in made], np.int64))


def known_to(content: Content, pictures: Pictures) -> Pictures:
    known = pictures.classes < len(content.manifest.labels)
    return Pictures(pictures.pixels[known], pictures.classes[known])


@pytest.mark.parametrize("version", VERSIONS)
def test_an_artifact_passes_its_own_golden_vectors(version: str, contents: dict[str, Content]) -> None:
    content = contents[version]
    assert content.manifest.golden
    self_test(Session(content))


@pytest.mark.parametrize("version", VERSIONS)
def test_an_artifact_says_what_it_is(version: str, contents: dict[str, Content]) -> None:
    manifest = contents[version].manifest
    assert (manifest.family, manifest.version, manifest.architecture) == (FAMILY, version, ARCHITECTURE)
    assert manifest.preprocessing == PREPROCESSING
    assert manifest.labels == LABELS[: len(manifest.labels)]
    assert len(manifest.labels) >= 12


def test_the_last_version_knows_a_sign_more_than_the_one_before(contents: dict[str, Content]) -> None:
    assert [len(contents[version].manifest.labels) for version in VERSIONS] == [len(LABELS) - 1, len(LABELS) - 1, len(LABELS)]


def test_the_artifacts_are_small_enough_to_be_bundled() -> None:
    assert sum(path_of(version).stat().st_size for version in VERSIONS) < 1_500_000


def test_the_figures_are_those_of_these_very_files(figures: dict[str, Any], contents: dict[str, Content]) -> None:
    written = [(one["version"], one["full_bytes"], one["content_sha256"]) for one in figures["versions"]]
    assert written == [(v, path_of(v).stat().st_size, contents[v].sha256) for v in VERSIONS]


@pytest.mark.parametrize("disturbance", DISTURBANCES)
@pytest.mark.parametrize("version", VERSIONS)
def test_an_artifact_is_as_often_right_as_it_is_said_to_be_on_pictures_nobody_has_seen(
    version: str, disturbance: str, contents: dict[str, Content], figures: dict[str, Any], fresh: dict[str, Pictures]
) -> None:
    claimed = next(one for one in figures["versions"] if one["version"] == version)["compressed_top1"][disturbance]
    pictures = known_to(contents[version], fresh[disturbance])
    found = top1(content_logits(contents[version], pictures), pictures)
    # Three standard errors of a sample of this size; the claim itself comes from a larger one.
    spread = 3 * float(np.sqrt(max(claimed * (1 - claimed), 0.01) / len(pictures.classes)))
    assert abs(found - claimed) < spread + 0.01


def test_compression_takes_at_most_a_point(figures: dict[str, Any]) -> None:
    for one in figures["versions"]:
        for disturbance, trained in one["float_top1"].items():
            assert trained - one["compressed_top1"][disturbance] <= 0.01


def test_every_version_is_worth_its_update(figures: dict[str, Any]) -> None:
    first, second, third = (one["compressed_top1"] for one in figures["versions"])
    assert first["clear"] >= 0.97
    assert second["harsh"] > first["harsh"] + 0.05
    assert second["clear"] >= first["clear"] - 0.01
    assert third["clear"] >= 0.97
    assert third["harsh"] > first["harsh"] + 0.05


def test_the_last_version_recognises_the_new_sign(contents: dict[str, Content], fresh: dict[str, Pictures]) -> None:
    last = len(LABELS) - 1
    is_new = fresh["clear"].classes == last
    new = Pictures(fresh["clear"].pixels[is_new], fresh["clear"].classes[is_new])
    assert top1(content_logits(contents[VERSIONS[-1]], new), new) >= 0.75


@pytest.mark.parametrize(("old", "new"), UPDATES)
def test_a_delta_decodes_to_the_very_content_of_the_full_artifact(
    old: str, new: str, contents: dict[str, Content], deltas: dict[tuple[str, str], Delta]
) -> None:
    data = deltas[old, new].data
    assert read_delta_header(data).base_sha256 == contents[old].sha256
    rebuilt = apply_delta(contents[old], data, Limits(max_content_bytes=len(contents[new].data)))
    assert rebuilt.data == contents[new].data


@pytest.mark.parametrize(("old", "new"), UPDATES)
def test_a_delta_costs_less_than_half_of_the_full_artifact_and_delivers_the_update(
    old: str, new: str, figures: dict[str, Any], deltas: dict[tuple[str, str], Delta]
) -> None:
    assert len(deltas[old, new].data) < path_of(new).stat().st_size / 2
    written = next(one for one in figures["deltas"] if (one["base"], one["version"]) == (old, new))
    assert written["lost_weights"] <= 0.05
    assert written["lost_answers"]["harsh"] <= 0.1
