"""Where the recipe keeps what takes long to make: pictures, half-trained and trained networks.

Every file's name holds a digest of all that it depends on, so that another recipe never takes it for its own, and a changed
stage trains itself and its successors again but not its predecessors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from examples.signs.disturbance import Disturbance
from examples.signs.learning import Report, Training
from examples.signs.pictures import Pictures, Source, Split
from examples.signs.stages import ARCHITECTURE, FAMILY, PREPROCESSING, Stage
from model_registry.architectures import architecture
from model_registry.models.network import Network


class Workshop:
    """A folder, the stages that are worked through in it, and the source of their pictures."""

    def __init__(self, folder: Path, source: Source, stages: Sequence[Stage], *, seed: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._source = source
        self._stages = tuple(stages)
        self._seed = seed

    def labels(self, number: int) -> tuple[str, ...]:
        """What the version of stage ``number`` tells apart."""
        return self._source.labels[: len(self._source.labels) - self._stages[number].withheld]

    def checkpoint(self, number: int) -> Path:
        """Where the trained network of stage ``number`` lies, or will."""
        learned = [self.labels(earlier) for earlier in range(number + 1)]
        key = _digest(self._source.fingerprint(Split.TRAIN), learned, self._stages[: number + 1], self._seed)
        return self._folder / f"{FAMILY}-{self._stages[number].version}-{key}.safetensors"

    def pictures(self, split: Split, disturbance: Disturbance, classes: int, report: Report) -> Pictures:
        """Those of the first ``classes`` classes; made once, then read back."""
        parts = []
        for class_index in range(classes):
            report(class_index / classes, f"{disturbance.name} pictures")
            parts.append(self._pictures_of(split, disturbance, class_index))
        return Pictures.of_all(parts)

    def _pictures_of(self, split: Split, disturbance: Disturbance, class_index: int) -> Pictures:
        key = _digest(self._source.fingerprint(split), self._source.labels[class_index], disturbance)
        path = self._folder / f"{split}-{disturbance.name}-{class_index}-{key}.npz"
        if not path.exists():
            made = self._source.pictures(split, disturbance, class_index)
            partial = path.with_suffix(".part.npz")
            np.savez(partial, pixels=made.pixels, classes=made.classes)
            partial.replace(path)
        with np.load(path) as stored:
            return Pictures(stored["pixels"], stored["classes"])

    def teach(self, number: int, report: Report) -> Path:
        """Train the version of stage ``number`` unless that is done already; its predecessor must be. Gives its checkpoint."""
        stage, done = self._stages[number], self.checkpoint(number)
        if done.exists():
            return done
        classes = len(self.labels(number))
        pictures = Pictures.of_all([self.pictures(Split.TRAIN, one, classes, report) for one in stage.disturbances])
        network = started(classes, self.checkpoint(number - 1) if number else None, seed=self._seed)
        training = Training(network, pictures, PREPROCESSING, stage.schedule, seed=self._seed + number)
        training.run(done.with_suffix(".pt"), report)
        partial = done.with_suffix(".part")
        save_file({key: value.contiguous() for key, value in network.state_dict().items()}, partial)
        partial.replace(done)
        return done


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def started(classes: int, previous: Path | None, *, seed: int) -> Network:
    """A fresh network, or the previous version's with as many rows more in its head as there are new classes."""
    torch.manual_seed(seed)
    network = Network(architecture(ARCHITECTURE, classes))
    state = network.state_dict()
    # The head ends in a ReLU: a class whose sums start below zero everywhere gets no gradient and is never learned.
    state["classifier.1.bias"].fill_(1.0)
    if previous is not None:
        for key, value in load_file(previous).items():
            state[key][: len(value)] = value
    return network


def read_network(checkpoint: Path) -> Network:
    """A trained network with the number of classes that its head has."""
    weights = load_file(checkpoint)
    network = Network(architecture(ARCHITECTURE, len(weights["classifier.1.bias"])))
    network.load_state_dict(weights)
    return network
