"""``deltafleet bench fuzz``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from model_registry.bench.fuzzing.engines import Decoder, Engine

if TYPE_CHECKING:
    from model_registry.bench.fuzzing.runs import Run


def fuzz(
    *,
    inputs: Annotated[int, typer.Option(min=1, help="For each engine and decoder, seeds included.")] = 100_000,
    engine: Annotated[Engine | None, typer.Option(help="Default: both, one after the other.")] = None,
    decoder: Annotated[Decoder | None, typer.Option(help="Default: both, one after the other.")] = None,
    seed: Annotated[int, typer.Option(min=1, help="The same seed, the same inputs.")] = 1,
    keep: Annotated[Path, typer.Option(file_okay=False, help="Where inputs that break a decoder are put.")] = Path(
        "fuzz-findings"
    ),
    reproduce: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Decode this one input instead, and say what came of it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Hostile artifacts against both decoders, in child processes with bounds on time and memory.

    Exit status 1 when one is not refused as it should be.

    Example: [bold]deltafleet bench fuzz --inputs 2000 --engine hypothesis[/bold]
    """
    from model_registry.bench.fuzzing import runs

    if reproduce:
        from model_registry.bench.fuzzing.target import Finding

        try:
            typer.echo(runs.reproduce(reproduce))
        except Finding as finding:
            typer.echo(str(finding), err=True)
            raise typer.Exit(1) from finding
        return
    summaries = []
    for each in [engine] if engine else Engine:
        for under_test in [decoder] if decoder else Decoder:
            run = runs.fuzz(each, under_test, inputs=inputs, seed=seed, keep=keep)
            summaries.append(run.summary())
            if not as_json:
                typer.echo(_text(run))
    if as_json:
        typer.echo(json.dumps({"inputs": inputs, "seed": seed, "runs": summaries}))
    if any(summary["finding"] for summary in summaries):
        raise typer.Exit(1)


def _text(run: Run) -> str:
    report, rate = run.report, run.summary()["executions_per_s"]
    lines = [f"{run.engine}, {run.decoder}: {report.get('executions', 0)} inputs in {run.seconds:.0f} s ({rate}/s)"]
    if report:
        lines.append("  " + ", ".join(f"{name} {count}" for name, count in report["answers"].items()))
        lines.append(f"  at most {report['peak_bytes'] / 1e6:.1f} MB allocated, {report['slowest_s']} s for one input")
    if run.finding:
        lines.append(f"  FOUND {run.finding}")
        lines.append(f"  again: deltafleet bench fuzz --reproduce {run.reproducer}")
    return "\n".join(lines)
