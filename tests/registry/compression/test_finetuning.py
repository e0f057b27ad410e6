"""Pruning and sharing with training, as a user sees it: the command, its files, and what it refuses."""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model_registry.cli import app, run
from model_registry.compression.finetuning import Finetuned, Finetuning, finetune
from model_registry.compression.pipeline import SourceNetwork, read_network
from model_registry.compression.recipe import Recipe
from model_registry.compression.training import BATCH, Pruned, SharedValues
from model_registry.compression.training_checkpoint import NAME, Position, TrainingState, training_in
from model_registry.compression.weight_sharing import Shared
from model_registry.contract.content import Content
from model_registry.contract.delta import apply_delta
from model_registry.contract.errors import ArtifactRefused, ManifestRefused, ModelUnusable, Refusal, UnsupportedArtifact
from model_registry.contract.full import encode_full
from model_registry.contract.tensors import Encoding
from model_registry.deltas import make_delta
from model_registry.models.exporting import to_safetensors
from tests.registry.networks import CLASSES, SMALL, foreign_onnx, random_weights, save

QUICK = Finetuning(density=0.5, bits=4, epochs=1, seed=3)
# Two stages of pruning and one of sharing.
STAGES = 3
BATCHES = math.ceil(12 / BATCH)
DEADLINE_S = 120.0


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five classes of coloured noise: 12 pictures to train on, 3 held out."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for index in range(15):
        place = folder / f"class{index % CLASSES}"
        place.mkdir(exist_ok=True)
        pixels = rng.integers(0, 128, (48, 48, 3)) + 25 * (index % CLASSES)
        Image.fromarray(pixels.astype(np.uint8)).save(place / f"{index}.png")
    return folder


@pytest.fixture
def network(checkpoint: Path) -> SourceNetwork:
    return read_network(checkpoint, Recipe())


@pytest.fixture(scope="module")
def made(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Finetuned:
    """One training without interruption."""
    folder = tmp_path_factory.mktemp("made")
    network = read_network(save(folder / "network.safetensors", random_weights()), Recipe())
    return trained(network, pictures, folder / "kept")


def trained(
    network: SourceNetwork, pictures: Path, kept: Path, settings: Finetuning = QUICK, base: Content | None = None
) -> Finetuned:
    return finetune(network, pictures, settings, kept, base=base, progress=lambda *_: None)


def matrices(content: Content) -> dict[str, np.ndarray]:
    return {name: value for name, value in content.weights().items() if value.ndim > 1}


def test_a_network_is_pruned_shared_and_says_so(made: Finetuned, network: SourceNetwork) -> None:
    assert made.density == pytest.approx(QUICK.density, abs=1e-4)
    for tensor in made.content.tensors:
        if len(tensor.shape) > 1:
            assert tensor.encoding is Encoding.CODEBOOK
            assert np.unique(tensor.dequantize()).size <= 2**QUICK.bits
    recipe = made.content.manifest.lineage.recipe["finetuned"]
    assert recipe == {"density": 0.5, "bits": 4, "epochs": 1, "seed": 3, "pictures": 12}
    assert (made.trained_on, made.held_out) == (12, 3)
    moved = made.content.weights()["classifier.1.bias"] - network.weights["classifier.1.bias"]
    assert np.abs(moved).max() > 0


def test_same_seed_same_bytes_other_seed_other_bytes(
    made: Finetuned, network: SourceNetwork, pictures: Path, tmp_path: Path
) -> None:
    again = trained(network, pictures, tmp_path / "again")
    other = trained(network, pictures, tmp_path / "other", Finetuning(density=0.5, bits=4, epochs=1, seed=4))
    assert again.content.sha256 == made.content.sha256
    assert other.content.weights()["classifier.1.bias"].tobytes() != made.content.weights()["classifier.1.bias"].tobytes()


def test_a_pruned_network_keeps_its_zeros_and_its_shared_values_are_trained(
    made: Finetuned, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "v1.safetensors").write_bytes(to_safetensors(made.content))
    network = read_network(tmp_path / "v1.safetensors", Recipe())
    steps: list[str] = []
    newer = finetune(
        network, pictures, QUICK, tmp_path / "kept", base=made.content, progress=lambda _, step: steps.append(step)
    )
    assert not any("retraining" in step for step in steps)
    before, after = matrices(made.content), matrices(newer.content)
    assert all((after[name][before[name] == 0] == 0).all() for name in before)
    assert any((after[name] != before[name]).any() for name in before)
    # Trained centroids are a few numbers; no weight changed its centroid.
    delta = make_delta(made.content, newer.content).data
    assert apply_delta(made.content, delta).sha256 == newer.content.sha256
    assert len(delta) < 0.05 * len(encode_full(newer.content))
    assert newer.content.manifest.lineage.recipe["lost"] <= 0.05


def test_what_is_pruned_stays_zero_also_against_a_base_without_zeros(
    network: SourceNetwork, made: Finetuned, pictures: Path, tmp_path: Path
) -> None:
    dense = trained(network, pictures, tmp_path / "dense", replace(QUICK, density=1.0)).content
    assert all((value != 0).all() for value in matrices(dense).values())
    sparse = trained(network, pictures, tmp_path / "sparse", base=dense)
    assert sparse.density == made.density


def test_training_learns(pictures: Path, network: SourceNetwork, tmp_path: Path) -> None:
    losses: list[float] = []

    def hear(_: float, step: str) -> None:
        if "loss" in step:
            losses.append(float(step.rsplit(" ", 1)[1]))

    longer = Finetuning(density=1.0, bits=2, epochs=10)
    finetune(network, pictures, longer, tmp_path / "kept", base=None, progress=hear)
    first, last = losses[:BATCHES], losses[-BATCHES:]
    assert sum(last) < sum(first) - 0.01


def test_a_centroids_gradient_is_the_sum_of_its_weights_gradients() -> None:
    shared = Shared(np.array([0, 2, 3], np.float32), np.array([[0, 1], [2, 1], [0, 0]], np.uint8))
    trainee = SharedValues({"w": shared}, {"b": np.ones(2, np.float32)})
    assert trainee.weights()["w"].tolist() == [[0, 2], [3, 2], [0, 0]]
    gradients = {"w": torch.tensor([[9.0, 1], [4, 2], [9, 9]]), "b": torch.tensor([5.0, 6])}
    assert {name: value.tolist() for name, value in trainee.gradients(gradients).items()} == {"w": [0, 3, 4], "b": [5, 6]}


def test_a_pruned_weight_has_no_gradient_and_is_put_back() -> None:
    trainee = Pruned({"w": np.ones((2, 2), np.float32)}, {"w": np.array([[True, False], [False, True]])})
    assert trainee.gradients({"w": torch.full((2, 2), 7.0)})["w"].tolist() == [[7, 0], [0, 7]]
    trainee.parameters["w"] -= 3
    trainee.settle()
    assert trainee.weights()["w"].tolist() == [[-2, 0], [0, -2]]


def command(source: Path, pictures: Path, output: Path, *more: str) -> list[str]:
    program = [sys.executable, "-c", "from model_registry.cli import main; main()", "compress", str(source), "-o", str(output)]
    settings = ["--density", "0.5", "--bits", "4", "--epochs", "1", "--seed", "3", "--json"]
    return [*program, "--finetune", str(pictures), *settings, *more]


def test_killed_it_goes_on_and_ends_with_the_same_bytes(
    made: Finetuned, pictures: Path, checkpoint: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.dfm"
    kept = tmp_path / "out.dfm.training" / NAME
    process = subprocess.Popen(command(checkpoint, pictures, output), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        wait_for(kept, process)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=DEADLINE_S)
    assert not output.exists()
    steps: list[str] = []
    network = read_network(checkpoint, Recipe())
    done = finetune(network, pictures, QUICK, kept.parent, base=None, progress=lambda _, step: steps.append(step))
    assert 0 < sum("loss" in step for step in steps) < STAGES * BATCHES
    assert done.content.sha256 == made.content.sha256


def test_stopped_in_every_epoch_it_ends_with_the_same_bytes(
    made: Finetuned, network: SourceNetwork, pictures: Path, tmp_path: Path
) -> None:
    for _ in range(STAGES - 1):
        with pytest.raises(Stopped):
            finetune(network, pictures, QUICK, tmp_path / "kept", base=None, progress=stop_in_the_second_epoch())
    assert trained(network, pictures, tmp_path / "kept").content.sha256 == made.content.sha256


class Stopped(Exception):
    """As a power cut would."""


def stop_in_the_second_epoch() -> Callable[[float, str], None]:
    heard: set[str] = set()

    def progress(_: float, step: str) -> None:
        epoch, *loss = step.split(", loss")
        heard.update([epoch] if loss else [])
        if len(heard) == 2:
            raise Stopped

    return progress


def test_the_command_reports_what_it_did(
    made: Finetuned, pictures: Path, checkpoint: Path, kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = kept / "out.dfm"
    with pytest.raises(SystemExit) as ended:
        run(app, command(checkpoint, pictures, output, "--checkpoints", str(kept))[3:])
    assert not ended.value.code
    report = json.loads(capsys.readouterr().out)
    assert output.read_bytes() == encode_full(made.content)
    assert (report["bytes"], report["trained_on"], report["held_out"]) == (output.stat().st_size, 12, 3)
    assert report["density"] == pytest.approx(0.5, abs=1e-4)
    assert (report["held_out_top1_before"], report["held_out_top1"]) == (made.top1_before, made.top1_after)
    assert report["checkpoints"] == str(kept)


@pytest.mark.parametrize(
    "more", [["--lossless"], ["--step", "0.1"], ["--calibrate", "."], ["--max-drop", "1"], ["--bits", "9"], ["--density", "0"]]
)
def test_options_that_do_not_go_together_are_wrong_usage(
    more: list[str], pictures: Path, checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(app, command(checkpoint, pictures, tmp_path / "out.dfm", *more)[3:])
    assert ended.value.code == 2


@pytest.mark.parametrize("alone", [["--density", "0.5"], ["--bits", "4"], ["--epochs", "1"], ["--seed", "1"]])
def test_options_of_training_need_pictures(alone: list[str], checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        run(app, ["compress", str(checkpoint), "-o", str(tmp_path / "out.dfm"), *alone])
    assert ended.value.code == 2


def wait_for(file: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not file.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture(scope="module")
def finished(made: Finetuned, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the last checkpoint of a training, to copy."""
    folder = tmp_path_factory.mktemp("finished")
    network = read_network(save(folder / "network.safetensors", random_weights()), Recipe())
    trained(network, pictures, folder / "kept")
    return folder / "kept"


@pytest.fixture
def kept(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "kept")


def test_a_finished_training_is_not_done_again_for_another_base(
    made: Finetuned, network: SourceNetwork, pictures: Path, kept: Path
) -> None:
    steps: list[str] = []
    done = finetune(network, pictures, QUICK, kept, base=made.content, progress=lambda _, step: steps.append(step))
    assert not any("loss" in step for step in steps)
    assert [t.values.tobytes() for t in done.content.tensors] == [t.values.tobytes() for t in made.content.tensors]


@pytest.mark.parametrize("damage", ["cut", "turned", "long", "empty", "text"])
def test_damaged_checkpoints_are_refused(network: SourceNetwork, pictures: Path, kept: Path, damage: str) -> None:
    data = (kept / NAME).read_bytes()
    turned = bytearray(data)
    turned[len(data) // 2] ^= 4
    forms = {"cut": data[:-9], "turned": bytes(turned), "long": data + b"\0", "empty": b"", "text": b"weights\n" * 99}
    (kept / NAME).write_bytes(forms[damage])
    with pytest.raises(ArtifactRefused, match=r"remove .*training.dft"):
        trained(network, pictures, kept)


def test_other_settings_networks_and_pictures_are_noticed(
    network: SourceNetwork, pictures: Path, kept: Path, tmp_path: Path
) -> None:
    with pytest.raises(Refusal, match=r"its settings differ.*--checkpoints"):
        trained(network, pictures, kept, Finetuning(density=0.5, bits=5, epochs=1, seed=3))
    other = read_network(save(tmp_path / "other.safetensors", random_weights(seed=1)), Recipe())
    with pytest.raises(Refusal, match="its network differ"):
        trained(other, pictures, kept)
    more = shutil.copytree(pictures, tmp_path / "more")
    Image.new("RGB", (48, 48)).save(more / "class0" / "0.png")
    with pytest.raises(Refusal, match="its pictures differ"):
        trained(network, more, kept)


@pytest.mark.parametrize(
    ("position", "change"),
    [
        (Position(9, 1), {}),
        (Position(2, 9), {}),
        (Position(0, 1), {}),
        (Position(2, 1), {"fixed.features.0.weight": np.full((64, 3, 3, 3), 99, np.float32)}),
        (Position(2, 1), {"fixed.features.0.weight": np.full((64, 3, 3, 3), 0.5, np.float32)}),
        (Position(2, 1), {"value.features.0.weight": np.zeros(17, np.float32)}),
        (Position(2, 1), {"value.features.0.weight": np.ones(16, np.float32)}),
        (Position(2, 1), {"exp_avg.features.0.bias": np.zeros(3, np.float32)}),
        (Position(2, 1), {"value.another.weight": np.zeros((3, 3), np.float32)}),
    ],
)
def test_hostile_checkpoints_with_a_true_digest_are_refused(
    network: SourceNetwork, pictures: Path, kept: Path, position: Position, change: dict[str, np.ndarray]
) -> None:
    identity = identity_of(kept)
    with training_in(kept, identity) as folder:
        state = folder.load()
        assert state is not None
        folder.save(TrainingState(position, state.tensors | change))
    with pytest.raises(ArtifactRefused):
        trained(network, pictures, kept)


def identity_of(kept: Path) -> dict[str, str]:
    """As the file says it."""
    data = (kept / NAME).read_bytes()[36:]
    size = int.from_bytes(data[:4], "little")
    identity = json.loads(data[4 : 4 + size])["identity"]
    assert set(identity) == {"network", "pictures", "settings"}
    return {name: str(digest) for name, digest in identity.items()}


def test_a_full_disk_leaves_the_checkpoint_before(kept: Path) -> None:
    before = (kept / NAME).read_bytes()
    with training_in(kept, identity_of(kept)) as folder:
        state = folder.load()
        assert state is not None
        with files_of_at_most(len(before) // 2), pytest.raises(Refusal, match="cannot be written"):
            folder.save(TrainingState(Position(0, 1), state.tensors))
    assert (kept / NAME).read_bytes() == before
    assert sorted(path.name for path in kept.iterdir()) == ["lock", NAME]


@contextmanager
def files_of_at_most(size_bytes: int) -> Iterator[None]:
    """The system refuses to write more, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_two_trainings_do_not_share_a_folder(network: SourceNetwork, pictures: Path, tmp_path: Path) -> None:
    with training_in(tmp_path / "kept", {}), pytest.raises(Refusal, match="another training is at work"):
        trained(network, pictures, tmp_path / "kept")


def test_pictures_that_do_not_fit_are_refused(network: SourceNetwork, pictures: Path, tmp_path: Path) -> None:
    extra = shutil.copytree(pictures, tmp_path / "extra")
    (extra / "class9").mkdir()
    with pytest.raises(ModelUnusable, match=r"6 class folders.*5 classes"):
        trained(network, extra, tmp_path / "kept")
    table = tmp_path / "table"
    shutil.copytree(pictures / "class0", table / "images")
    names = sorted(path.name for path in (table / "images").iterdir())
    (table / "labels.csv").write_text("file,class_index\n" + "".join(f"{name},{CLASSES}\n" for name in names))
    with pytest.raises(ModelUnusable, match=r"class 5.*counted from 0"):
        trained(network, table, tmp_path / "kept")
    (table / "labels.csv").write_text(f"file,class_index\n{names[0]},0\n")
    with pytest.raises(ArtifactRefused, match="at least 5"):
        trained(network, table, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_a_graph_of_its_own_cannot_be_trained(pictures: Path, tmp_path: Path, checkpoint: Path) -> None:
    foreign = read_network(foreign_onnx(tmp_path / "f.onnx", classes=CLASSES), Recipe(preprocessing=SMALL))
    with pytest.raises(UnsupportedArtifact, match=r"architectures known here.*--calibrate"):
        trained(foreign, pictures, tmp_path / "kept")


def test_preprocessing_is_needed(pictures: Path, network: SourceNetwork, tmp_path: Path) -> None:
    blind = replace(network, manifest=replace(network.manifest, preprocessing=None))
    with pytest.raises(ManifestRefused, match="--preprocess"):
        trained(blind, pictures, tmp_path / "kept")
