"""The recipe runs, goes on where it was stopped, and ends with the same weights either way: on tiny sets and in a few steps."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.numpy import load_file

from examples.signs.disturbance import CLEAR, HARSH
from examples.signs.learning import Schedule, as_input
from examples.signs.pictures import FolderOfSigns, RenderedSigns, Source, Split
from examples.signs.release import Trained, content_logits, lost_answers, release
from examples.signs.render import samples
from examples.signs.stages import PREPROCESSING, STAGES, Stage
from examples.signs.train import main
from examples.signs.workshop import Workshop, read_network
from model_registry.contract.full import decode_full
from model_registry.contract.session import Session, self_test

SHORT = (
    replace(STAGES[0], schedule=Schedule(epochs=2, rate=1e-3, density=0.25, prune_from=0, prune_to=1)),
    replace(STAGES[1], schedule=replace(STAGES[1].schedule, epochs=1)),
    replace(STAGES[2], schedule=replace(STAGES[2].schedule, epochs=1)),
)
Weights = dict[str, npt.NDArray[np.float32]]


class Stopped(Exception):
    """The run was cut off."""


def silent(share: float, note: str) -> None:
    """Nobody watches."""


def source() -> Source:
    return RenderedSigns(train_per_class=3, held_out_per_class=2, seed=1)


def workshop(folder: Path, stages: tuple[Stage, ...] = SHORT) -> Workshop:
    return Workshop(folder, source(), stages, seed=1)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workshop, list[Path]]:
    shop = workshop(tmp_path_factory.mktemp("taught"))
    return shop, [shop.teach(number, silent) for number in range(len(SHORT))]


def test_two_runs_end_with_the_same_weights(taught: tuple[Workshop, list[Path]], tmp_path: Path) -> None:
    again = workshop(tmp_path).teach(0, silent)
    assert again.name == taught[1][0].name
    assert again.read_bytes() == taught[1][0].read_bytes()


def test_a_run_that_was_stopped_ends_with_the_weights_of_one_that_was_not(
    taught: tuple[Workshop, list[Path]], tmp_path: Path
) -> None:
    def stop_in_the_second_epoch(share: float, note: str) -> None:
        if note.startswith("loss") and share > 0.6:
            raise Stopped

    with pytest.raises(Stopped):
        workshop(tmp_path).teach(0, stop_in_the_second_epoch)
    assert not workshop(tmp_path).checkpoint(0).exists()
    shares: list[float] = []
    resumed = workshop(tmp_path).teach(0, lambda share, note: shares.append(share) if note.startswith("loss") else None)
    assert min(shares) > 0.5
    assert resumed.read_bytes() == taught[1][0].read_bytes()


def test_what_is_trained_is_not_trained_again(taught: tuple[Workshop, list[Path]]) -> None:
    def refuse(share: float, note: str) -> None:
        raise AssertionError(note)

    assert taught[0].teach(2, refuse) == taught[1][2]


def test_another_schedule_is_another_checkpoint_from_that_stage_on(tmp_path: Path) -> None:
    changed = (SHORT[0], replace(SHORT[1], schedule=replace(SHORT[1].schedule, rate=1e-5)), SHORT[2])
    ours, others = workshop(tmp_path), workshop(tmp_path, changed)
    assert [ours.checkpoint(n) == others.checkpoint(n) for n in range(3)] == [True, False, False]


def test_the_first_version_is_pruned_and_the_second_keeps_its_zeros(taught: tuple[Workshop, list[Path]]) -> None:
    first, second = (load_file(path) for path in taught[1][:2])
    inner = [key for key in first if key.endswith("weight") and key not in ("features.0.weight", "classifier.1.weight")]
    for key in inner:
        assert abs(np.count_nonzero(first[key]) / first[key].size - 0.25) < 0.01
        assert not np.any(second[key][first[key] == 0])
        assert np.any(second[key] != first[key])


def test_the_third_version_has_a_class_more_and_shares_all_but_the_head(taught: tuple[Workshop, list[Path]]) -> None:
    second, third = (load_file(path) for path in taught[1][1:])
    changed = [key for key in second if second[key].shape != third[key].shape or np.any(second[key] != third[key])]
    assert changed == ["classifier.1.bias", "classifier.1.weight"]
    assert len(third["classifier.1.bias"]) == len(second["classifier.1.bias"]) + 1


def test_versions_become_artifacts_with_figures(taught: tuple[Workshop, list[Path]], tmp_path: Path) -> None:
    shop, checkpoints = taught
    versions = []
    for number in (1, 2):
        labels = shop.labels(number)
        held_out = {d.name: shop.pictures(Split.HELD_OUT, d, len(labels), silent) for d in (CLEAR, HARSH)}
        versions.append(Trained(SHORT[number].version, checkpoints[number], labels, held_out))
    release(versions, tmp_path, silent)
    third = decode_full((tmp_path / "signs-3.0.0.dfm").read_bytes())
    self_test(Session(third))
    seen = versions[1].held_out["clear"]
    network = read_network(checkpoints[2]).eval()
    with torch.no_grad():
        expected = network(as_input(seen.pixels, PREPROCESSING)).numpy()
    spread = float(np.abs(expected).max())
    # The quantiser moves weights by about a fiftieth; another preprocessing or order of channels would move answers by more.
    assert float(np.abs(content_logits(third, seen) - expected).max()) < 0.3 * spread
    assert (tmp_path / "accuracies.json").exists()


def test_a_folder_of_photographs_is_a_source(tmp_path: Path) -> None:
    for split, seed in (("train", 1), ("val", 2)):
        for one in samples(6, seed, labels=("stop", "yield")):
            folder = tmp_path / split / f"{one.class_index:05d}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{one.jpeg[-8:].hex()}.jpg").write_bytes(one.jpeg)
    (tmp_path / "train" / "00000" / "annotations.csv").write_text("no picture", encoding="utf-8")
    with (tmp_path / "classes.csv").open("w", newline="", encoding="utf-8") as opened:
        csv.writer(opened).writerows([("class_index", "name"), (0, "stop"), (1, "yield")])
    photographs = FolderOfSigns(tmp_path, seed=1)
    assert photographs.labels == ("stop", "yield")
    assert len(photographs.pictures(Split.TRAIN, CLEAR, 0).classes) == 3
    clear, harsh, again = (photographs.pictures(Split.TRAIN, d, 1) for d in (CLEAR, HARSH, HARSH))
    assert clear.pixels.shape == (3, 64, 64, 3)
    assert clear.classes.tolist() == [1, 1, 1]
    assert not np.array_equal(clear.pixels, harsh.pixels)
    assert np.array_equal(harsh.pixels, again.pixels)
    shop = Workshop(tmp_path / "work", photographs, SHORT, seed=1)
    assert [len(load_file(shop.teach(n, silent))["classifier.1.bias"]) for n in range(3)] == [1, 1, 2]


def test_a_folder_whose_names_do_not_fit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "val").mkdir()
    (tmp_path / "classes.csv").write_text("class_index,name\n0,a\n1,b\n", encoding="utf-8")
    with pytest.raises(ValueError, match="1 folders and 2 names"):
        FolderOfSigns(tmp_path, seed=1)


def test_a_folder_that_is_laid_out_otherwise_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(tmp_path), "--work", str(tmp_path / "work")]) == 1
    assert "there is no folder" in capsys.readouterr().out
    assert not (tmp_path / "work").exists()


def test_without_checkpoints_nothing_is_made_from_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--from-checkpoints", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]) == 1
    assert "not trained yet" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_the_share_that_was_lost_is_nothing_when_all_arrived_and_all_when_nothing_did() -> None:
    rng = np.random.default_rng(1)
    before, trained = rng.normal(size=(2, 20, 5)).astype(np.float32)
    assert lost_answers(trained, trained, before) == pytest.approx(0)
    assert lost_answers(trained, before, before) == pytest.approx(1)
    # A class that the vehicle's model did not know yet is left out.
    more = np.concatenate([trained, rng.normal(size=(20, 1)).astype(np.float32)], axis=1)
    assert lost_answers(more, more, before) == pytest.approx(0)
