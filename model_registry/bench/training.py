"""Teaching one network as a ``Training`` says, with torch: seeded, on one thread, so that a machine makes the same again.

What may move is one of two things: weights themselves, under masks that keep zeros where they are, or the entries of each
layer's codebook, whose gradients are the sums over the weights that share them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from model_registry.architectures import architecture
from model_registry.bench.scenarios import Moving, Phase, Training
from model_registry.contract.preprocessing import Preprocessing
from model_registry.models.checkpoints import Weights
from model_registry.models.evaluation import Sample, read_picture
from model_registry.models.network import Network

Progress = Callable[[float, str], None]
# The head ends in a ReLU: a class that starts below it would never be heard.
HEAD_BIAS = 1.0
HEAD_SPREAD = 0.01
# Largest shift of a picture along its edge while dropout is on: 1 part in so many.
SHIFT_PARTS = 16
# On another number of threads sums come in another order.
THREADS = 1


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """Pictures as the network takes them (n, 3, height, width), and their classes (n)."""

    images: Tensor
    classes: Tensor


def read_lesson(samples: Sequence[Sample], preprocessing: Preprocessing) -> Lesson:
    """Read all pictures into memory. Raises MalformedArtifact for one that cannot be read."""
    images = [torch.from_numpy(preprocessing.apply(read_picture(sample.path))) for sample in samples]
    return Lesson(torch.cat(images), torch.tensor([sample.label for sample in samples]))


def teach(name: str, start: Weights, training: Training, lesson: Lesson, progress: Progress = lambda *_: None) -> Weights:
    """The weights of architecture ``name`` after ``training`` from ``start``. Deterministic on a machine."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(training.seed)
    network = Network(architecture(name, training.classes))
    network.load_weights(_pruned(_with_head(start, training), training.pruned))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    steps = -(-len(lesson.classes) // training.batch)
    total = steps * sum(phase.passes for phase in training.phases)
    done = 0
    for phase in training.phases:
        pupil = _pupil(network, training.moving, phase)
        optimiser = torch.optim.Adam(pupil.leaves, lr=phase.rate)
        for _ in range(phase.passes):
            for batch in torch.split(torch.randperm(len(lesson.classes)), training.batch):
                loss = _step(pupil, optimiser, lesson, batch, dropout=training.dropout)
                done += 1
                progress(done / total, f"loss {loss:.3f}")
        pupil.finish()
    return network.weights()


def _step(pupil: _Pupil, optimiser: torch.optim.Adam, lesson: Lesson, batch: Tensor, *, dropout: bool) -> float:
    pupil.network.train(dropout)
    images = _shifted(lesson.images[batch]) if dropout else lesson.images[batch]
    answers = pupil.answer(images.contiguous(memory_format=torch.channels_last))
    loss = functional.cross_entropy(answers, lesson.classes[batch])
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    pupil.stepped()
    return float(loss.item())


def _shifted(images: Tensor) -> Tensor:
    """The batch moved by a few pixels, its rim repeated."""
    side = images.shape[-1]
    reach = side // SHIFT_PARTS
    top, left = (int(value) for value in torch.randint(0, 2 * reach + 1, (2,)))
    padded = functional.pad(images, (reach, reach, reach, reach), mode="replicate")
    return padded[..., top : top + images.shape[-2], left : left + side]


class _Pupil(Protocol):
    """A network with what may move of it: ``leaves`` are what the optimiser sees."""

    network: Network
    leaves: list[Tensor]

    def answer(self, images: Tensor) -> Tensor: ...

    def stepped(self) -> None:
        """After every step of the optimiser."""

    def finish(self) -> None:
        """Leave the network with its new weights."""


def _pupil(network: Network, moving: Moving, phase: Phase) -> _Pupil:
    chosen = {key: p for key, p in network.named_parameters() if any(fnmatch(key, pattern) for pattern in phase.keys)}
    if moving is Moving.CODEBOOKS:
        return _CodebookPupil(network, {key: p for key, p in chosen.items() if key.endswith(".weight")})
    return _WeightPupil(network, chosen, keep_zeros=moving is Moving.KEPT)


class _WeightPupil:
    def __init__(self, network: Network, chosen: Mapping[str, Tensor], *, keep_zeros: bool) -> None:
        self.network = network
        self.leaves = list(chosen.values())
        for key, parameter in network.named_parameters():
            parameter.requires_grad_(key in chosen)
        # A bias that is zero has not been pruned.
        self._masks = [(p, p != 0) for key, p in chosen.items() if keep_zeros and key.endswith(".weight")]

    def answer(self, images: Tensor) -> Tensor:
        result: Tensor = self.network(images)
        return result

    def stepped(self) -> None:
        with torch.no_grad():
            for parameter, mask in self._masks:
                parameter.mul_(mask)

    def finish(self) -> None:
        """The weights are in the network already."""


class _CodebookPupil:
    def __init__(self, network: Network, chosen: Mapping[str, Tensor]) -> None:
        self.network = network
        self.leaves = []
        self._places: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        for key, parameter in chosen.items():
            entries, places = torch.unique(parameter.detach(), return_inverse=True)
            codebook = entries.clone().requires_grad_()
            self._places[key] = codebook, places, entries != 0
            self.leaves.append(codebook)
        network.requires_grad_(False)

    def answer(self, images: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(self.network, self._weights(), (images,))
        return result

    def stepped(self) -> None:
        with torch.no_grad():
            for codebook, _, free in self._places.values():
                codebook.mul_(free)

    def finish(self) -> None:
        with torch.no_grad():
            for key, value in self._weights().items():
                self.network.get_parameter(key).copy_(value)

    def _weights(self) -> dict[str, Tensor]:
        return {key: codebook[places] for key, (codebook, places, _) in self._places.items()}


def _with_head(start: Weights, training: Training) -> Weights:
    """A head for ``training.classes``: new, or the old one with rows added. The last two keys are the head's."""
    weight, bias = list(start)[-2:]
    rows = start[weight].shape[0]
    if not training.new_head and rows == training.classes:
        return start
    kept = 0 if training.new_head else rows
    rng = np.random.default_rng(training.seed)
    shape = (training.classes - kept, *start[weight].shape[1:])
    fresh = rng.normal(scale=HEAD_SPREAD, size=shape).astype(np.float32)
    biases = np.full(training.classes - kept, HEAD_BIAS, np.float32)
    head = {weight: np.concatenate([start[weight][:kept], fresh]), bias: np.concatenate([start[bias][:kept], biases])}
    return start | head


def _pruned(weights: Weights, share: float) -> Weights:
    """``share`` of the weights of each layer that are not zero made zero, the smallest first."""
    if not share:
        return weights

    def without_smallest(
        value: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    ) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        limit = np.quantile(np.abs(value[value != 0]), share)
        return np.where(np.abs(value) < limit, np.float32(0), value)

    return {key: without_smallest(value) if value.ndim > 1 else value for key, value in weights.items()}
