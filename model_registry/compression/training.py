"""Training what compression left: weights behind a mask, or the values that weights share.

A *trainee* holds what is trained and knows how a network's weights follow from it; ``Course`` is one stage of training it.
Everything is a function of the trainee, the pictures, the seed and the position: the order of the pictures, dropout and the
learning rate are made anew for every step from (seed, stage, epoch, step), so that there is no state beside the
parameters and Adam's moments. One thread, deterministic algorithms: the same bytes on the same kind of machine.

The target of a picture is its label and, for the larger part, the answer of the network as it came (Hinton et al. 2015,
arXiv 1503.02531, section 2): compression shall not change what the network knows of classes that these pictures hardly show.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from model_registry.architectures import Architecture, Dropout
from model_registry.compression.pruning import Mask, spread
from model_registry.compression.weight_sharing import Shared
from model_registry.contract.errors import MalformedArtifact, ModelUnusable
from model_registry.contract.preprocessing import Preprocessing
from model_registry.models.checkpoints import Weights
from model_registry.models.evaluation import Sample, read_picture
from model_registry.models.network import Network

BATCH = 8
# Adam's first step, in units of a layer's spread; it falls to nothing along a half cosine.
RATE = 3e-3
LABEL_SHARE = 0.2
Tensors = dict[str, Tensor]


class Trainee(Protocol):
    """What a stage trains. ``parameters``: by the name of the network's weight that each makes or is."""

    parameters: Tensors

    def weights(self) -> Tensors:
        """The network's weights as they follow from the parameters."""

    def gradients(self, of_weights: Tensors) -> Tensors:
        """The parameters' gradients as they follow from the weights'."""

    def settle(self) -> None:
        """Put back what a step must not move."""

    def fixed(self) -> Tensors:
        """What decides with the parameters, and is not trained, by the name of a weight."""


class Pruned:
    """Every weight for itself; where ``masks`` says no, it is zero before and after every step."""

    def __init__(self, weights: Weights, masks: Mapping[str, Mask]) -> None:
        self.parameters = _tensors(weights)
        self._dead = {name: ~torch.from_numpy(np.array(mask)) for name, mask in masks.items()}
        self.settle()

    @classmethod
    def restored(cls, parameters: Weights, fixed: Weights) -> Pruned:
        return cls(parameters, {name: mask != 0 for name, mask in fixed.items()})

    def weights(self) -> Tensors:
        return self.parameters

    def gradients(self, of_weights: Tensors) -> Tensors:
        return of_weights | {name: of_weights[name].masked_fill(dead, 0.0) for name, dead in self._dead.items()}

    def settle(self) -> None:
        for name, dead in self._dead.items():
            self.parameters[name].masked_fill_(dead, 0.0)

    def fixed(self) -> Tensors:
        return {name: (~dead).float() for name, dead in self._dead.items()}


class SharedValues:
    """A layer's centroids, and which of them each weight is; the first one is zero and stays so. Biases for themselves.

    A centroid's gradient is the sum of the gradients of its weights (Han et al. 2016, section 3.3).
    """

    def __init__(self, shared: Mapping[str, Shared], biases: Weights) -> None:
        self.parameters = _tensors({name: s.centroids for name, s in shared.items()} | biases)
        self._indices = {name: torch.from_numpy(s.indices.astype(np.int32)) for name, s in shared.items()}

    @classmethod
    def restored(cls, parameters: Weights, fixed: Weights) -> SharedValues:
        """Raises MalformedArtifact for an index of a centroid that is not there, or a first one that is not zero."""
        for name, indices in fixed.items():
            entries = parameters[name].size
            if parameters[name][0] != 0:
                raise MalformedArtifact(f"the first centroid of {name} is not zero")
            if not ((indices >= 0) & (indices < entries) & (indices == np.floor(indices))).all():
                raise MalformedArtifact(f"an index of {name} points beyond its {entries} centroids")
        shared = {name: Shared(parameters[name], fixed[name].astype(np.uint8)) for name in fixed}
        return cls(shared, {name: value for name, value in parameters.items() if name not in fixed})

    def weights(self) -> Tensors:
        return self.parameters | {
            name: self.parameters[name].index_select(0, index.flatten()).reshape(index.shape)
            for name, index in self._indices.items()
        }

    def gradients(self, of_weights: Tensors) -> Tensors:
        sums = {
            name: torch.bincount(index.flatten(), of_weights[name].flatten().double(), len(self.parameters[name])).float()
            for name, index in self._indices.items()
        }
        for total in sums.values():
            total[0] = 0.0
        return of_weights | sums

    def settle(self) -> None:
        """Nothing to do: zero has no gradient, so Adam never moves it."""

    def fixed(self) -> Tensors:
        return {name: index.float() for name, index in self._indices.items()}


@dataclass(frozen=True, slots=True)
class Lesson:
    """What to learn: a network, its pictures, and the seed of all randomness."""

    architecture: Architecture
    original: Weights
    preprocessing: Preprocessing
    samples: Sequence[Sample]
    seed: int

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return math.ceil(len(self.samples) / BATCH)

    def rates(self) -> dict[str, float]:
        """How far a step goes, by the name of a weight: as its layer's weights, or its bias where that is larger."""
        rates = {}
        for name, value in self.original.items():
            weight = self.original[f"{name.removesuffix('bias')}weight"] if name.endswith("bias") else value
            rates[name] = RATE * max(spread(value), spread(weight))
        return rates


class Course:
    """One stage: ``epochs`` passes over the pictures of a lesson; ``dropout``: what remains of the architecture's, 0 to 1."""

    def __init__(self, lesson: Lesson, trainee: Trainee, *, stage: int, epochs: int, dropout: float) -> None:
        self._lesson, self.trainee, self._stage, self._epochs = lesson, trainee, stage, epochs
        self._student = Network(_with_less_dropout(lesson.architecture, dropout)).train()
        self._teacher = Network(lesson.architecture).eval()
        self._teacher.load_weights(lesson.original)
        self._rates = lesson.rates()
        groups = [{"params": [value], "lr": 0.0, "name": name} for name, value in trainee.parameters.items()]
        self._adam = torch.optim.Adam(groups, foreach=False)

    def run_epoch(self, epoch: int, heard: Callable[[int, float], None]) -> None:
        """Pass over all pictures once; ``heard`` gets each step and its loss. Raises ModelUnusable when it diverges."""
        order = np.random.default_rng([self._lesson.seed, self._stage, epoch]).permutation(len(self._lesson.samples))
        for step in range(self._lesson.steps):
            batch = [self._lesson.samples[index] for index in order[step * BATCH : (step + 1) * BATCH]]
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(_seed(self._lesson.seed, self._stage, epoch, step))
                loss = self._loss(batch)
            self._step(loss, epoch * self._lesson.steps + step)
            heard(step, float(loss.detach()))

    def moments(self) -> dict[str, Tensors]:
        """Adam's two moments, by the names of the parameters; empty before the first step."""
        states = {group["name"]: self._adam.state[group["params"][0]] for group in self._adam.param_groups}
        return {part: {name: state[part] for name, state in states.items() if state} for part in ("exp_avg", "exp_avg_sq")}

    def restore(self, moments: Mapping[str, Weights], steps: int) -> None:
        """Go on where ``moments`` were taken."""
        for group in self._adam.param_groups:
            own = {part: torch.from_numpy(np.array(values[group["name"]])) for part, values in moments.items()}
            self._adam.state[group["params"][0]] = {"step": torch.tensor(float(steps)), **own}

    def _loss(self, batch: Sequence[Sample]) -> Tensor:
        images = torch.from_numpy(np.concatenate([self._lesson.preprocessing.apply(read_picture(s.path)) for s in batch]))
        labels = functional.one_hot(torch.tensor([sample.label for sample in batch]), self._lesson.architecture.classes)
        with torch.no_grad():
            known = self._teacher(images).softmax(1)
            weights = self.trainee.weights()
            for name, value in self._student.named_parameters():
                value.copy_(weights[name])
        self._student.zero_grad()
        return functional.cross_entropy(self._student(images), LABEL_SHARE * labels + (1 - LABEL_SHARE) * known)

    def _step(self, loss: Tensor, done: int) -> None:
        if not math.isfinite(float(loss.detach())):
            raise ModelUnusable(
                "the training diverged: its loss is no number any more", remedy="check the preprocessing and the labels"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        own = {name: value.grad for name, value in self._student.named_parameters() if value.grad is not None}
        for name, gradient in self.trainee.gradients(own).items():
            self.trainee.parameters[name].grad = gradient
        progress = done / (self._epochs * self._lesson.steps)
        for group in self._adam.param_groups:
            group["lr"] = self._rates[group["name"]] * (1 + math.cos(math.pi * progress)) / 2
        self._adam.step()
        self.trainee.settle()


@contextmanager
def deterministic() -> Iterator[None]:
    """One thread and deterministic algorithms; as it was afterwards."""
    threads, before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.set_num_threads(threads)


def as_weights(tensors: Tensors) -> Weights:
    """Copies as float32 arrays."""
    return {name: value.detach().numpy().astype(np.float32) for name, value in tensors.items()}


def _tensors(weights: Weights) -> Tensors:
    return {name: torch.from_numpy(np.array(value, np.float32)) for name, value in weights.items()}


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _with_less_dropout(architecture: Architecture, share: float) -> Architecture:
    layers = tuple(
        replace(layer, operation=Dropout(layer.operation.probability * share))
        if isinstance(layer.operation, Dropout)
        else layer
        for layer in architecture.layers
    )
    return replace(architecture, layers=layers)
