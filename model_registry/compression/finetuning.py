"""Deep Compression with training (Han, Mao and Dally 2016, arXiv 1510.00149, sections 2 and 3).

The stages: (1) prune by magnitude and retrain, in a few steps down to the wanted density; none when the network has it;
(2) share each layer's weights among a few values, and train those. What was pruned stays exactly zero throughout. A checkpoint
is kept after every epoch; the same command goes on from it, and ends with the same bytes as if it had never stopped.

Every fifth picture is held out: no training sees it, and the accuracies that are reported are of these alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from model_registry.architectures import architecture
from model_registry.compression import pruning
from model_registry.compression.pipeline import SourceNetwork, compress
from model_registry.compression.quantization import Setting
from model_registry.compression.training import Course, Lesson, Pruned, SharedValues, Trainee, as_weights, deterministic
from model_registry.compression.training_checkpoint import CheckpointFolder, Position, TrainingState, training_in
from model_registry.compression.weight_sharing import share
from model_registry.contract.canonical import canonical_json
from model_registry.contract.content import Content
from model_registry.contract.errors import MalformedArtifact, ManifestRefused, ModelUnusable, UnsupportedArtifact
from model_registry.contract.limits import MIB
from model_registry.contract.preprocessing import Preprocessing
from model_registry.models.checkpoints import Weights
from model_registry.models.evaluation import Sample, content_engine, evaluate, labelled
from model_registry.models.files import read_file

Progress = Callable[[float, str], None]
HELD_OUT_EVERY = 5
MAX_PICTURE_BYTES = 64 * MIB
# Raised when the same settings no longer mean the same training.
METHOD = 1
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, slots=True)
class Finetuning:
    """``density``: share of weights that stay; ``bits``: a layer shares at most 2^bits values; ``epochs``: of each stage."""

    density: float = 0.33
    bits: int = 6
    epochs: int = 3
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Finetuned:
    """The content, and what it is like: accuracies are of the ``held_out`` pictures, by the engine that vehicles run."""

    content: Content
    density: float
    trained_on: int
    held_out: int
    top1_before: float
    top1_after: float


@dataclass(frozen=True, slots=True)
class _Stage:
    sharing: bool
    density: float

    @property
    def dropout(self) -> float:
        """A sparser network learns less by heart and needs less of it: Han et al. 2015, section 3.2. A few values need none."""
        return 0.0 if self.sharing else math.sqrt(self.density)

    def __str__(self) -> str:
        return "training shared values" if self.sharing else f"retraining at {100 * self.density:.0f} % density"


def finetune(
    network: SourceNetwork, folder: Path, settings: Finetuning, checkpoints: Path, *, base: Content | None, progress: Progress
) -> Finetuned:
    """Train ``network`` on the labelled pictures of ``folder`` and compress it; goes on from what ``checkpoints`` holds.

    Raises UnsupportedArtifact for a network that brings its own graph, ManifestRefused without preprocessing,
    MalformedArtifact or ModelUnusable for pictures or labels that do not fit, Refusal for checkpoints of another training.
    """
    preprocessing = _require_trainable(network)
    samples = _samples(folder, network)
    held_out = samples[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]
    trained = [sample for at, sample in enumerate(samples) if at % HELD_OUT_EVERY != HELD_OUT_EVERY - 1]
    progress(0.0, "measuring the network as it came")
    before = evaluate(content_engine(network.exact()), preprocessing, held_out).top1
    identity = _identity(network, trained, settings)
    known = architecture(network.manifest.architecture, _classes(network))
    lesson = Lesson(known, network.weights, preprocessing, trained, settings.seed)
    with training_in(checkpoints, identity) as kept, deterministic():
        weights = _Training(lesson, settings, kept, progress).run()
    content = compress(replace(network, weights=weights), Setting(), base=base, progress=lambda _, name: progress(1.0, name))
    content = content.with_recipe(finetuned={**asdict(settings), "pictures": len(trained)})
    after = evaluate(content_engine(content), preprocessing, held_out).top1
    return Finetuned(content, pruning.density(_matrices(content.weights())), len(trained), len(held_out), before, after)


class _Training:
    """All stages of one training, from the beginning or from a checkpoint."""

    def __init__(self, lesson: Lesson, settings: Finetuning, kept: CheckpointFolder, progress: Progress) -> None:
        self._lesson, self._settings, self._kept, self._progress = lesson, settings, kept, progress
        now = pruning.density(_matrices(lesson.original))
        steps = pruning.schedule(now, settings.density)
        self._stages = (*(_Stage(False, density) for density in steps), _Stage(True, min(now, settings.density)))

    def run(self) -> Weights:
        """The trained weights."""
        state = self._kept.load()
        first = state.position.stage if state else 0
        if first >= len(self._stages):
            raise _unfit("it is of a stage that this training has not")
        weights = self._run_stage(first, self._lesson.original, state)
        for number in range(first + 1, len(self._stages)):
            weights = self._run_stage(number, weights, None)
        return weights

    def _run_stage(self, number: int, weights: Weights, state: TrainingState | None) -> Weights:
        """Train ``weights``, or what the checkpoint holds, to the end of the stage."""
        stage = self._stages[number]
        trainee = self._restored(stage, state) if state else self._begun(stage, weights)
        course = Course(self._lesson, trainee, stage=number, epochs=self._settings.epochs, dropout=stage.dropout)
        if state:
            moments = {moment: _part(state, moment) for moment in MOMENTS}
            course.restore(moments, state.position.epoch * self._lesson.steps)
        for epoch in range(state.position.epoch if state else 0, self._settings.epochs):
            course.run_epoch(epoch, lambda step, loss, epoch=epoch: self._tell(number, epoch, step, loss))  # type: ignore[misc]
            parts = {"value": trainee.parameters, "fixed": trainee.fixed(), **course.moments()}
            tensors = {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}
            self._kept.save(TrainingState(Position(number, epoch + 1), as_weights(tensors)))
        return as_weights(trainee.weights())

    def _begun(self, stage: _Stage, weights: Weights) -> Trainee:
        matrices = _matrices(weights)
        if not stage.sharing:
            return Pruned(weights, pruning.masks(matrices, stage.density))
        shared = {name: share(value, self._settings.bits) for name, value in matrices.items()}
        return SharedValues(shared, {name: value for name, value in weights.items() if name not in matrices})

    def _restored(self, stage: _Stage, state: TrainingState) -> Trainee:
        """Raises MalformedArtifact for tensors that are not those of the stage."""
        parameters, fixed = _part(state, "value"), _part(state, "fixed")
        shapes = {name: value.shape for name, value in self._lesson.original.items()}
        matrices = {name: shape for name, shape in shapes.items() if len(shape) > 1}
        own = {name: value.shape for name, value in parameters.items()}
        expected = dict(shapes)
        if stage.sharing:
            expected |= {name: own[name] for name in matrices if own.get(name) in self._codebook_shapes()}
        moments = [{name: value.shape for name, value in _part(state, moment).items()} for moment in MOMENTS]
        if not expected == own == moments[0] == moments[1] or {n: v.shape for n, v in fixed.items()} != matrices:
            raise _unfit("its tensors are not those of this network")
        if state.position.epoch > self._settings.epochs:
            raise _unfit("it is of an epoch that this training has not")
        return (SharedValues if stage.sharing else Pruned).restored(parameters, fixed)

    def _codebook_shapes(self) -> set[tuple[int, ...]]:
        return {(entries,) for entries in range(1, 2**self._settings.bits + 1)}

    def _tell(self, number: int, epoch: int, step: int, loss: float) -> None:
        epochs, steps = self._settings.epochs, self._lesson.steps
        done = ((number * epochs + epoch) * steps + step + 1) / (len(self._stages) * epochs * steps)
        self._progress(done, f"{self._stages[number]}, epoch {epoch + 1} of {epochs}, loss {loss:.3f}")


def _unfit(problem: str) -> MalformedArtifact:
    return MalformedArtifact(
        f"the training checkpoint cannot be used: {problem}", remedy="remove it to train from the beginning"
    )


def _part(state: TrainingState, part: str) -> Weights:
    prefix = f"{part}."
    return {name.removeprefix(prefix): value for name, value in state.tensors.items() if name.startswith(prefix)}


def _matrices(weights: Weights) -> Weights:
    """What is pruned and shared: everything but biases."""
    return {name: value for name, value in weights.items() if value.ndim > 1}


def _require_trainable(network: SourceNetwork) -> Preprocessing:
    if network.manifest.architecture == "onnx":
        raise UnsupportedArtifact(
            "training needs one of the architectures known here, an ONNX graph of its own can only be run",
            remedy="train it where it was made and compress the result with --calibrate, or name its architecture with --arch",
        )
    if network.manifest.preprocessing is None:
        raise ManifestRefused("pictures cannot be shown to a network without preprocessing", remedy="give it with --preprocess")
    return network.manifest.preprocessing


def _classes(network: SourceNetwork) -> int:
    return int(list(network.weights.values())[-1].shape[0])


def _samples(folder: Path, network: SourceNetwork) -> list[Sample]:
    """The labelled pictures, if their classes are the network's."""
    samples, classes = labelled(folder), _classes(network)
    if not (folder / "labels.csv").is_file():
        # Sorted names count the classes: with one missing or one too many, labels would silently mean something else.
        folders = sum(1 for path in folder.iterdir() if path.is_dir())
        if folders != classes:
            remedy = "give one folder for each class, empty where there are no pictures, or labels.csv"
            raise ModelUnusable(f"{folder} has {folders} class folders, the network has {classes} classes", remedy=remedy)
    for sample in samples:
        if not 0 <= sample.label < classes:
            raise ModelUnusable(
                f"{sample.path.name} has class {sample.label}, the network has {classes} classes, counted from 0",
                remedy="correct labels.csv",
            )
    if len(samples) < HELD_OUT_EVERY:
        raise MalformedArtifact(
            f"{folder} has {len(samples)} pictures", remedy=f"give at least {HELD_OUT_EVERY}, better thousands"
        )
    return samples


def _identity(network: SourceNetwork, samples: list[Sample], settings: Finetuning) -> dict[str, str]:
    """Digests of all that a training follows from, by what they are of."""
    manifest, pictures = network.manifest, hashlib.sha256()
    for sample in samples:
        content = hashlib.sha256(read_file(sample.path, max_bytes=MAX_PICTURE_BYTES)).hexdigest()
        pictures.update(f"{sample.label} {content}\n".encode())
    source = [manifest.lineage.source_sha256, manifest.architecture]
    prepared = manifest.preprocessing.to_json() if manifest.preprocessing else None
    how = [asdict(settings), prepared, METHOD, torch.__version__]
    return {
        "network": hashlib.sha256(canonical_json(source)).hexdigest(),
        "pictures": pictures.hexdigest(),
        "settings": hashlib.sha256(canonical_json(how)).hexdigest(),
    }
