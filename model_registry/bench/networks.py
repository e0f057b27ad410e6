"""The networks of the scenarios as .safetensors files: made once, kept in a cache, each there whole or not at all.

A file's name carries a digest of everything that it was made from: the recipe, the network it started from, the published
file. So a changed recipe makes a new file, and a run that was stopped goes on with the first network that is missing.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from model_registry.bench.reference import ReferenceData, Split
from model_registry.bench.scenarios import TRAININGS, Pictures, Training
from model_registry.contract.canonical import canonical_json
from model_registry.contract.limits import MIB
from model_registry.models.checkpoints import MAX_CHECKPOINT_BYTES, Description, Weights
from model_registry.models.deep_compression import NETWORK, read_deep_compression
from model_registry.models.files import read_file, write_file
from model_registry.models.safetensors_file import read_safetensors, write_safetensors

Progress = Callable[[str, float, str], None]
# Counts changes of the training code that change its results.
CODE = 2
DIGEST_CHARS = 12


def cache_folder(given: Path | None) -> Path:
    """``given``, or $DELTAFLEET_BENCH_CACHE, or the user's own cache."""
    return given or Path(os.environ.get("DELTAFLEET_BENCH_CACHE", Path.home() / ".cache" / "deltafleet" / "bench"))


def with_starts(names: Iterable[str], trainings: Mapping[str, Training] = TRAININGS) -> list[str]:
    """The names with all that they start from, in the order in which they can be made."""
    wanted = set(names)
    for name in reversed(list(trainings)):
        start = trainings[name].start
        if name in wanted and start is not None:
            wanted.add(start)
    return [name for name in trainings if name in wanted]


class NetworkCache:
    """``path`` says where a network lies, ``make`` sees to it that it does."""

    def __init__(self, folder: Path, data: ReferenceData, trainings: Mapping[str, Training] = TRAININGS) -> None:
        self._folder, self._data, self._trainings = folder, data, trainings
        self._published = read_file(data.network, max_bytes=MIB)
        self._splits: dict[Pictures, Split] = {}

    def path(self, name: str) -> Path:
        return self._folder / f"{name}-{self._key(name)}.safetensors"

    def make(self, names: Iterable[str], progress: Progress = lambda *_: None) -> dict[str, Path]:
        """Make what is missing of the networks and of what they start from. Raises Refusal."""
        self._folder.mkdir(parents=True, exist_ok=True)
        order = with_starts(names, self._trainings)
        for name in order:
            if not self.path(name).is_file():
                weights, description = self._made(name, partial(progress, name))
                write_file(self.path(name), write_safetensors(weights, description))
            progress(name, 1.0, "there")
        return {name: self.path(name) for name in order}

    def split(self, pictures: Pictures) -> Split:
        if pictures not in self._splits:
            self._splits[pictures] = self._data.split(pictures)
        return self._splits[pictures]

    def _made(self, name: str, progress: Callable[[float, str], None]) -> tuple[Weights, Description]:
        training = self._trainings[name]
        if training.start is None:
            return read_deep_compression(self._published)
        # Torch takes seconds to load, and a full cache does without.
        from model_registry.bench.training import read_lesson, teach  # noqa: PLC0415

        start, _ = read_safetensors(read_file(self.path(training.start), max_bytes=MAX_CHECKPOINT_BYTES))
        split = self.split(training.pictures)
        samples = [sample for sample in split.teaching if sample.label < training.classes]
        weights = teach(NETWORK, start, training, read_lesson(samples, split.preprocessing), progress)
        return weights, replace(Description(NETWORK, split.preprocessing), labels=split.labels[: training.classes])

    def _key(self, name: str) -> str:
        training = self._trainings[name]
        start = self._key(training.start) if training.start else hashlib.sha256(self._published).hexdigest()
        recipe = canonical_json({"code": CODE, "start": start, "training": training.to_json()})
        return hashlib.sha256(recipe).hexdigest()[:DIGEST_CHARS]
