"""The recipe of the bundled road-sign models: three versions of a SqueezeNet, from scratch to artifacts and figures.

``python -m examples.signs.train`` does all of it and may be stopped and started again. ``--data DIR`` takes photographs
(train/CLASS/*.jpg, val/CLASS/*.jpg) in place of renderings; ``--from-checkpoints`` trains nothing and makes artifacts and
figures anew from the networks that an earlier run left.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from examples.signs.disturbance import CLEAR, HARSH
from examples.signs.learning import Report
from examples.signs.pictures import FolderOfSigns, RenderedSigns, Source, Split
from examples.signs.release import FIGURES, Trained, release
from examples.signs.stages import STAGES, Stage
from examples.signs.workshop import Workshop

ARTIFACTS = Path(__file__).parent / "artifacts"
DEFAULT_WORK = Path("build/signs")


@contextmanager
def shown(console: Console, title: str) -> Iterator[Report]:
    """A progress bar for one step."""
    columns = (TextColumn("{task.description:<20}"), BarColumn(), TextColumn("{task.fields[note]:<20}"), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=1.0, note="")
        yield lambda share, note: progress.update(task, completed=share, note=note)


def trained(workshop: Workshop, stages: Sequence[Stage], console: Console) -> list[Trained]:
    """Every stage's version, taught where it is not yet, with the pictures that judge it."""
    versions = []
    for number, stage in enumerate(stages):
        with shown(console, f"training {stage.version}") as report:
            checkpoint = workshop.teach(number, report)
            labels = workshop.labels(number)
            held_out = {d.name: workshop.pictures(Split.HELD_OUT, d, len(labels), report) for d in (CLEAR, HARSH)}
            versions.append(Trained(stage.version, checkpoint, labels, held_out))
    return versions


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    console = Console()
    try:
        source = _source(options)
    except ValueError as exc:
        console.print(f"{exc}; --data wants train/CLASS/*.jpg and val/CLASS/*.jpg", markup=False, soft_wrap=True)
        return 1
    stages = [replace(stage, schedule=stage.schedule.longer(options.longer)) for stage in STAGES]
    workshop = Workshop(options.work, source, stages, seed=options.seed)
    missing = [str(workshop.checkpoint(n)) for n in range(len(stages)) if not workshop.checkpoint(n).exists()]
    if options.from_checkpoints and missing:
        console.print(
            f"not trained yet: {', '.join(missing)}; run without --from-checkpoints, with the same settings", soft_wrap=True
        )
        return 1
    versions = trained(workshop, stages, console)
    # Photographs make other models than those that are bundled.
    out: Path = options.out or (options.work / "artifacts" if options.data else ARTIFACTS)
    with shown(console, "compressing") as report:
        release(versions, out, report)
    console.print((out / FIGURES).read_text(encoding="utf-8"), markup=False, soft_wrap=True)
    return 0


def _source(options: argparse.Namespace) -> Source:
    if options.data:
        return FolderOfSigns(options.data, seed=options.seed)
    return RenderedSigns(train_per_class=options.per_class, held_out_per_class=options.held_out, seed=options.seed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Train, compress and measure the road-sign models.")
    parser.add_argument("--data", type=Path, help="photographs in train/CLASS and val/CLASS, in place of renderings")
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK, help="folder for checkpoints; a stopped run goes on from it")
    parser.add_argument(
        "--out", type=Path, help="for artifacts and figures; else the bundled ones or, with --data, WORK/artifacts"
    )
    parser.add_argument("--from-checkpoints", action="store_true", help="train nothing, only compress and measure")
    parser.add_argument("--per-class", type=int, default=500, help="rendered training pictures a class and disturbance")
    parser.add_argument("--held-out", type=int, default=100, help="rendered held-out pictures a class and disturbance")
    parser.add_argument("--longer", type=int, default=1, help="times as many epochs, for a small folder of photographs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="another number gives slightly other weights")
    return parser


if __name__ == "__main__":
    sys.exit(main())
