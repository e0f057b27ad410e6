"""``deltafleet bench``: make the networks that are measured, and measure.

What works is imported inside the commands, as in ``model_registry.cli``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from model_registry.bench.fuzzing.cli import fuzz
from model_registry.contract.errors import ArtifactRefused

bench_app = typer.Typer(no_args_is_help=True, help="Measure the product on real networks, beside general tools.")
bench_app.command()(fuzz)

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

    _refuse_unknown(names or (), list(TRAININGS), "NETWORK")
    networks = NetworkCache(cache_folder(cache), ReferenceData.at(reference))
    with progress_bar() as progress:
        paths = networks.make(names or TRAININGS, progress)
    values = {name: str(path) for name, path in paths.items()}
    typer.echo(json.dumps(values) if as_json else "\n".join(f"{name:<22}{path}" for name, path in values.items()))


@bench_app.command("bytes")
def bytes_(
    only: Annotated[list[str] | None, typer.Option(metavar="SCENARIO", help="Only this scenario; may be repeated.")] = None,
    *,
    peers: Annotated[bool, typer.Option(help="Measure the general tools as well; the long part.")] = True,
    keep: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Leave the artifacts in this new or empty folder.")
    ] = None,
    cache: Cache = None,
    reference: Reference = None,
    as_json: Json = False,
) -> None:
    """Compare full artifacts and deltas with general tools on the same inputs, with what is lost, time and memory.

    Missing networks are taught first. Exit status 1 when an artifact cannot be made, or does not decode to its content in a
    fresh process.

    Example: [bold]deltafleet bench bytes --only classifier-only --json[/bold]
    """
    from rich.console import Console

    from model_registry.bench.networks import NetworkCache, cache_folder
    from model_registry.bench.reference import ReferenceData
    from model_registry.bench.running import compare
    from model_registry.bench.scenarios import SCENARIOS
    from model_registry.bench.table import show, to_json

    _refuse_unknown(only or (), [scenario.name for scenario in SCENARIOS], "--only")
    with _workspace(keep) as workspace, progress_bar() as progress:
        networks = NetworkCache(cache_folder(cache), ReferenceData.at(reference))
        result = compare(networks, only or (), workspace=workspace, with_peers=peers, progress=progress)
    if as_json:
        typer.echo(json.dumps(to_json(result)))
    else:
        # A pipe has no width of its own, and tables that are cut off tell nothing.
        console = Console()
        show(result, console if console.is_terminal else Console(width=220))
    if result.broken:
        raise ArtifactRefused(f"the benchmark found what must not be: {'; '.join(result.broken)}")


def _refuse_unknown(given: Sequence[str], known: Collection[str], place: str) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is none of {', '.join(known)}", param_hint=place)


@contextmanager
def _workspace(keep: Path | None) -> Iterator[Path]:
    """An empty folder, which is gone afterwards unless it is to be kept."""
    if keep is None:
        with TemporaryDirectory(prefix="deltafleet-bench-") as folder:
            yield Path(folder)
        return
    keep.mkdir(parents=True, exist_ok=True)
    if any(keep.iterdir()):
        raise typer.BadParameter(f"{keep} is not empty: name another folder", param_hint="--keep")
    yield keep


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
