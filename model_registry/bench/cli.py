"""``deltafleet bench``: make the networks that are measured, and measure.

What works is imported inside the commands, as in ``model_registry.cli``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

bench_app = typer.Typer(no_args_is_help=True, help="Measure the product on real networks, beside general tools.")

Cache = Annotated[
    Path | None,
    typer.Option(help="Where taught networks are kept. Default: $DELTAFLEET_BENCH_CACHE or ~/.cache/deltafleet/bench."),
]
Reference = Annotated[
    Path | None, typer.Option(help="Real weights and pictures. Default: $DELTAFLEET_REFERENCE_DATA or ../shared/data.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


@bench_app.command()
def train(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NETWORK...", help="Only these, and what they start from.")
    ] = None,
    *,
    cache: Cache = None,
    reference: Reference = None,
    as_json: Json = False,
) -> None:
    """Teach the networks that the benchmark compares, and keep them; what is there already is not made again.

    Example: [bold]deltafleet bench train signs-weekly --cache ./networks[/bold]
    """
    from model_registry.bench.networks import NetworkCache, cache_folder
    from model_registry.bench.reference import ReferenceData
    from model_registry.bench.scenarios import TRAININGS

    unknown = sorted(set(names or ()) - set(TRAININGS))
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is none of {', '.join(TRAININGS)}", param_hint="NETWORK")
    networks = NetworkCache(cache_folder(cache), ReferenceData.at(reference))
    with progress_bar() as progress:
        paths = networks.make(names or TRAININGS, progress)
    values = {name: str(path) for name, path in paths.items()}
    typer.echo(json.dumps(values) if as_json else "\n".join(f"{name:<22}{path}" for name, path in values.items()))


@contextmanager
def progress_bar() -> Iterator[Callable[[str, float, str], None]]:
    """Bars on standard error, one for each thing that is worked on; gone when all is done."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:>22}"), BarColumn(), TextColumn("{task.fields[step]}"), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks: dict[str, TaskID] = {}

        def progress(name: str, share: float, step: str) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=1.0, step="")
            bars.update(tasks[name], completed=share, step=step)

        yield progress
