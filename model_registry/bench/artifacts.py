"""Artifacts as a user makes them: by the command itself, in a process of its own, on one thread."""

from __future__ import annotations

import csv
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_registry.bench.processes import ProcessFailed, run_alone
from model_registry.contract.content import Content
from model_registry.contract.errors import Refusal
from model_registry.inspection import read_full
from model_registry.models.evaluation import Sample

PROGRAM = (sys.executable, "-c", "from model_registry.cli import main; main()")
DEADLINE_S = 3600


class CompressionFailed(Refusal):
    """The command ended with a refusal."""


@dataclass(frozen=True, slots=True)
class Made:
    """A full artifact. ``said``: what the command printed as JSON."""

    path: Path
    cpu_s: float
    said: dict[str, Any]

    def content(self) -> Content:
        return read_full(self.path)


def compress(source: Path, target: Path, *options: str | Path) -> Made:
    """``deltafleet compress``. Raises CompressionFailed."""
    before = _children_cpu_s()
    command = [*PROGRAM, "compress", str(source), "-o", str(target), "--json", *map(str, options)]
    try:
        said = run_alone(command, deadline_s=DEADLINE_S)
    except ProcessFailed as exc:
        raise CompressionFailed(f"{source.name} is not compressed: {exc}") from exc
    return Made(target, round(_children_cpu_s() - before, 1), said)


def lay_out(samples: Sequence[Sample], folder: Path) -> Path:
    """A folder of links to these pictures alone, with their labels, as the commands take it."""
    (folder / "images").mkdir(parents=True)
    with (folder / "labels.csv").open("w", newline="") as table:
        rows = csv.writer(table)
        rows.writerow(("file", "class_index"))
        for number, sample in enumerate(samples):
            name = f"{number:05}{sample.path.suffix}"
            (folder / "images" / name).symlink_to(sample.path.resolve())
            rows.writerow((name, sample.label))
    return folder


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
