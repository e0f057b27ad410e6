"""The publisher's half of the program: import, compress, export, inspect, diff, patch, evaluate, keys.

Exit codes: 0 done, 1 a clear refusal on one line, 2 wrong usage. Results go to standard output (one JSON object with
``--json``), progress and refusals to standard error. Commands import what they need when they run: help is instant.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from model_registry.bench.cli import bench_app
from model_registry.contract.errors import ManifestRefused, Refusal
from model_registry.trust.cli import keys_app

if TYPE_CHECKING:
    from model_registry.compression.recipe import Recipe
    from model_registry.contract.content import Content
    from model_registry.contract.preprocessing import Preprocessing

MAX_SETTINGS_BYTES = 16 * 1024 * 1024
# A delta above this part of a full artifact is worth a word of advice.
LARGE_DELTA = 10

app = typer.Typer(
    name="deltafleet",
    help="Over-the-air model updates for vehicle fleets: small signed deltas, guarded rollouts, safe swaps.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(keys_app, name="keys")
app.add_typer(bench_app, name="bench")


class ImportFormat(StrEnum):
    """Foreign files that ``import`` reads."""

    DEEP_COMPRESSION = "deep-compression"
    TORCH = "torch"
    ONNX = "onnx"


class DeltaCodec(StrEnum):
    """How ``diff`` codes; ``auto`` tries all and keeps the smallest."""

    AUTO = "auto"
    MODEL = "model"
    BSDIFF4 = "bsdiff4"
    ZSTD = "zstd"


class EngineName(StrEnum):
    """What ``evaluate`` runs the network on."""

    ONNXRUNTIME = "onnxruntime"
    TORCH = "torch"


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="File to write; it appears whole or not at all.")]
Preprocess = Annotated[
    Path | None,
    typer.Option(help='JSON file: {"resize": [h, w], "crop": [h, w] or null, "order": "RGB", "mean": [3], "scale": 1.0}.'),
]
Labels = Annotated[Path | None, typer.Option(help="CSV file with the columns class_index and name.")]


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="The trained network.")],
    *,
    output: Output,
    kind: Annotated[ImportFormat, typer.Option("--format", help="What FILE is.")],
    preprocess: Preprocess = None,
    labels: Labels = None,
    as_json: Json = False,
) -> None:
    """Turn a foreign checkpoint into safetensors, with preprocessing and labels inside.

    A torch checkpoint is opened in a child process with limits, weights only.

    Example: [bold]deltafleet import model.pt --format torch -o model.safetensors --preprocess imagenet.json[/bold]
    """
    from dataclasses import replace

    from model_registry.models.files import write_file
    from model_registry.models.importing import Format, import_file
    from model_registry.models.safetensors_file import write_safetensors

    _require_suffix(output, ".safetensors")
    _refuse_same(file, output)
    with _progress("importing") as progress:
        checkpoint = import_file(file, Format(kind), preprocessing=_preprocessing(preprocess))
        description = replace(checkpoint.description, labels=_labels(labels) or checkpoint.description.labels)
        data = write_safetensors(checkpoint.weights, description)
        write_file(output, data)
        progress(1.0, "written")
    parameters = sum(value.size for value in checkpoint.weights.values())
    _report(
        {"file": str(output), "bytes": len(data), "architecture": description.architecture, "parameters": parameters}, as_json
    )


@app.command()
def compress(
    file: Annotated[Path, typer.Argument(help="A .safetensors or .onnx file.")],
    *,
    output: Output,
    arch: Annotated[str | None, typer.Option(help="Architecture, where the weights alone do not tell.")] = None,
    base: Annotated[
        Path | None, typer.Option(help="The version before (.dfm): stay close to it, so that deltas are small.")
    ] = None,
    lossless: Annotated[bool, typer.Option("--lossless", help="Keep float32 bit for bit.")] = False,
    step: Annotated[
        float | None, typer.Option(help="Grid step for every weight tensor; smaller is finer. Default 0.15.")
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a few hundred pictures or more (up to 4,500 are used), best such as the network was not "
            "trained on: choose the coarsest setting whose answers stay the same."
        ),
    ] = None,
    max_lost: Annotated[
        float | None,
        typer.Option(help="With --base and --calibrate: per cent of the update that may be lost. Default 5.", min=0, max=100),
    ] = None,
    max_drop: Annotated[
        float | None, typer.Option(help="With labelled --calibrate pictures: points of top-1 that may be lost.", min=0, max=100)
    ] = None,
    finetune: Annotated[
        Path | None,
        typer.Option(help="Labelled pictures: prune, share values and retrain. Not with --lossless, --step, --calibrate."),
    ] = None,
    density: Annotated[
        float | None, typer.Option(help="--finetune: share of weights that stay. Default 0.33.", min=0.001, max=1)
    ] = None,
    bits: Annotated[
        int | None, typer.Option(help="--finetune: a layer has at most 2^BITS values. Default 6.", min=2, max=8)
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="--finetune: passes over the pictures at each stage. Default 3.", min=1, max=10_000)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="--finetune: of all randomness. Default 0.", min=0, max=2**32 - 1)] = None,
    checkpoints: Annotated[
        Path | None, typer.Option(help="--finetune: folder to go on from when stopped. Default OUTPUT.training, kept.")
    ] = None,
    preprocess: Preprocess = None,
    labels: Labels = None,
    family: Annotated[str, typer.Option(help="Name of the line of models.")] = "unnamed",
    version: Annotated[str, typer.Option(help="Release of it, MAJOR.MINOR.PATCH.")] = "0.0.0",
    as_json: Json = False,
) -> None:
    """Compress a network into a full artifact (.dfm) of a few hundred kilobytes.

    Example: [bold]deltafleet compress model.safetensors -o v2.dfm --base v1.dfm --family signs --version 2.0.0[/bold]

    With --finetune it is trained on the way; stopped, the same command goes on. Every fifth picture measures, the others train.
    """
    from model_registry.compression.recipe import Recipe
    from model_registry.contract.full import encode_full
    from model_registry.inspection import describe_content, read_full
    from model_registry.models.files import write_file

    _require_suffix(output, ".dfm")
    _refuse_same(file, output)
    if (lossless, step is not None, calibrate is not None, finetune is not None).count(True) > 1:
        raise typer.BadParameter("--lossless, --step, --calibrate and --finetune exclude each other")
    if max_lost is not None and (base is None or calibrate is None or max_drop is not None):
        raise typer.BadParameter(
            "--max-lost bounds an update by its answers: it needs --base and --calibrate without --max-drop"
        )
    if max_drop is not None and calibrate is None:
        raise typer.BadParameter("--max-drop needs labelled pictures: add --calibrate DIR")
    training = {"density": density, "bits": bits, "epochs": epochs, "seed": seed}
    training = {name: value for name, value in training.items() if value is not None}
    if finetune is None and (training or checkpoints):
        raise typer.BadParameter(
            "--density, --bits, --epochs, --seed and --checkpoints need labelled pictures: add --finetune DIR"
        )
    given = {"architecture": arch, "lossless": lossless, "step": step}
    recipe = Recipe.from_json(given | {"labels": list(_labels(labels)), "preprocessing": _as_json(_preprocessing(preprocess))})
    previous = read_full(base) if base else None
    with _progress("compressing") as progress:
        if finetune is not None:
            kept = checkpoints or output.with_name(f"{output.name}.training")
            content, found = _finetuned(file, recipe, previous, progress, pictures=finetune, training=training, kept=kept)
        else:
            content, found = _compressed(
                file, recipe, previous, progress, calibrate=calibrate, max_drop=max_drop, max_lost=max_lost
            )
        content = content.named(family, version)
        data = encode_full(content)
        write_file(output, data)
        progress(0.95, "written; coding the delta" if previous else "written")
        update = {}
        if previous is not None:
            update = _update(previous, content, data, advised=calibrate is None and finetune is None and not lossless)
        progress(1.0, "done")
    summary = {"file": str(output), "bytes": len(data), **describe_content(content), **update, **found}
    _report(summary, as_json, hidden=("tensors", "inputs", "outputs", "preprocessing", "recipe"))


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="A full artifact (.dfm).")],
    output: Output,
    as_json: Json = False,
) -> None:
    """Turn an artifact back into .safetensors or a self-contained .onnx.

    Example: [bold]deltafleet export v2.dfm -o v2.onnx[/bold]
    """
    from model_registry.inspection import read_full
    from model_registry.models.exporting import EXPORTS
    from model_registry.models.files import write_file

    _require_suffix(output, *EXPORTS)
    _refuse_same(file, output)
    data = EXPORTS[output.suffix](read_full(file))
    write_file(output, data)
    _report({"file": str(output), "bytes": len(data)}, as_json)


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="A .dfm, .dfd or .safetensors file.")],
    base: Annotated[Path | None, typer.Option(help="For a delta: its base (.dfm), to see what it makes.")] = None,
    as_json: Json = False,
) -> None:
    """Show what a file is: names, digests, preprocessing, and how each tensor is encoded.

    Example: [bold]deltafleet inspect v2.dfm --json[/bold]
    """
    from model_registry.inspection import describe

    # The recipe holds packed digests: for scripts.
    _report(describe(file, base=base), as_json, hidden=("recipe",))


@app.command()
def diff(
    base: Annotated[Path, typer.Argument(help="The version that vehicles have (.dfm).")],
    new: Annotated[Path, typer.Argument(help="The version that they shall get (.dfm).")],
    output: Output,
    codec: Annotated[DeltaCodec, typer.Option(help="How to code; auto keeps the smallest.")] = DeltaCodec.AUTO,
    as_json: Json = False,
) -> None:
    """Make the smallest delta (.dfd) between two artifacts; it is applied and compared before it is written.

    Example: [bold]deltafleet diff v1.dfm v2.dfm -o v1-v2.dfd[/bold]
    """
    from model_registry.contract.delta import Codec
    from model_registry.deltas import make_delta
    from model_registry.inspection import read_full
    from model_registry.models.files import write_file

    _require_suffix(output, ".dfd")
    before, after = read_full(base), read_full(new)
    with _progress("coding") as progress:
        delta = make_delta(before, after, None if codec is DeltaCodec.AUTO else Codec(codec))
        write_file(output, delta.data)
        progress(1.0, "written")
    summary = {"file": str(output), "bytes": len(delta.data), "codec": str(delta.codec), "full_bytes": new.stat().st_size}
    _report(summary | {"base_sha256": before.sha256, "content_sha256": after.sha256}, as_json)


@app.command()
def patch(
    base: Annotated[Path, typer.Argument(help="The version at hand (.dfm).")],
    delta: Annotated[Path, typer.Argument(help="A delta made from it (.dfd).")],
    output: Output,
    as_json: Json = False,
) -> None:
    """Apply a delta; writes byte for byte the .dfm that compress wrote.

    Example: [bold]deltafleet patch v1.dfm v1-v2.dfd -o v2.dfm[/bold]
    """
    from model_registry.contract.delta import apply_delta
    from model_registry.contract.full import encode_full
    from model_registry.contract.limits import DEFAULT_LIMITS
    from model_registry.inspection import naming, read_full
    from model_registry.models.files import read_file, write_file

    _require_suffix(output, ".dfm")
    before, change = read_full(base), read_file(delta, max_bytes=DEFAULT_LIMITS.max_artifact_bytes)
    with naming(delta):
        content = apply_delta(before, change, DEFAULT_LIMITS)
    data = encode_full(content)
    write_file(output, data)
    _report({"file": str(output), "bytes": len(data), "content_sha256": content.sha256}, as_json)


@app.command()
def evaluate(
    file: Annotated[Path, typer.Argument(help="A .dfm or .safetensors file.")],
    data: Annotated[Path, typer.Option(help="labels.csv with images/, or one folder for each class.")],
    *,
    arch: Annotated[str | None, typer.Option(help="Architecture, where the weights alone do not tell.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first N pictures.", min=1)] = None,
    engine: Annotated[
        EngineName | None, typer.Option(help="Default: onnxruntime for a .dfm, torch for weights of a known architecture.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure how often the network is right on labelled pictures.

    Example: [bold]deltafleet evaluate v2.dfm --data signs/val --json[/bold]
    """
    from model_registry.models import evaluation

    samples = evaluation.labelled(data)[:limit]
    with _progress("evaluating") as progress:
        run, preprocessing, used = _engine(file, arch, engine)
        accuracy = evaluation.evaluate(run, preprocessing, samples, progress)
    _report({"images": accuracy.images, "top1": accuracy.top1, "top5": accuracy.top5, "engine": str(used)}, as_json)


def _engine(file: Path, arch: str | None, wanted: EngineName | None) -> tuple[Callable[[Any], Any], Preprocessing, EngineName]:
    """The network of ``file`` ready to run; a checkpoint is taken as its exact content."""
    from model_registry.compression.pipeline import content_of
    from model_registry.compression.recipe import Recipe
    from model_registry.models.evaluation import content_engine, torch_engine

    content, is_artifact = content_of(file, Recipe(architecture=arch))
    preprocessing = content.manifest.preprocessing
    if preprocessing is None:
        raise ManifestRefused(
            f"{file.name} does not say how to prepare pictures", remedy="compress or import it with --preprocess"
        )
    named = content.manifest.architecture != "onnx"
    used = wanted or (EngineName.TORCH if named and not is_artifact else EngineName.ONNXRUNTIME)
    if used is EngineName.TORCH:
        return torch_engine(content.manifest.architecture, content.weights()), preprocessing, used
    return content_engine(content), preprocessing, used


def _compressed(
    file: Path,
    recipe: Recipe,
    base: Content | None,
    progress: Callable[[float, str], None],
    *,
    calibrate: Path | None,
    max_drop: float | None,
    max_lost: float | None,
) -> tuple[Content, dict[str, Any]]:
    """The content, and what the report says of the settings that were tried and of a base that errs more than it should."""
    from model_registry.compression import pipeline

    if calibrate is None:
        return pipeline.compress_checkpoint(file, recipe, base=base, progress=progress), {}
    from model_registry.compression import accuracy, search, updates
    from model_registry.models.evaluation import labelled

    network = pipeline.read_network(file, recipe)
    if max_drop is None:
        bound = {} if max_lost is None else {"max_lost": max_lost / 100}
        found = search.calibrate(network, calibrate, base=base, progress=progress, **bound)
    else:
        found = accuracy.within_drop(network, labelled(calibrate), max_drop, base=base, progress=progress)
    told: dict[str, Any] = {}
    if found.untempered:
        told["lost_untempered"], told["lost_untempered_error"] = found.untempered.lost, found.untempered.error
    told["curve"] = [point.to_json() for point in found.points]
    if found.noise > updates.LOST_LIMIT:
        told["advice"] = "the base is coarse beside this update: compress first releases finer (--step) where small ones follow"
    return found.content, told


def _update(base: Content, content: Content, full: bytes, *, advised: bool) -> dict[str, Any]:
    """What the report says of an update; ``advised``: that a large one wants pictures, if the network could be shown some."""
    from model_registry.contract.delta import Codec
    from model_registry.deltas import make_delta

    # The other codecs take much longer, and are seldom smaller.
    told: dict[str, Any] = {"delta_bytes": len(make_delta(base, content, Codec.MODEL).data)}
    if content.manifest.lineage.base_sha256 != base.sha256:
        # Compressed already, from another base or none.
        return told
    told |= {key: content.manifest.lineage.recipe.get(key) for key in ("lost", "noise")}
    can_be_shown = base.manifest.preprocessing == content.manifest.preprocessing is not None
    if advised and can_be_shown and told["lost"] and LARGE_DELTA * told["delta_bytes"] > len(full):
        told["advice"] = "pictures tell which changes matter: with --calibrate DIR, no labels needed, a delta takes a fraction"
    return told


def _finetuned(
    file: Path,
    recipe: Recipe,
    base: Content | None,
    progress: Callable[[float, str], None],
    *,
    pictures: Path,
    training: dict[str, Any],
    kept: Path,
) -> tuple[Content, dict[str, Any]]:
    """The content, and what the report says of its training."""
    from model_registry.compression.finetuning import Finetuning, finetune
    from model_registry.compression.pipeline import read_network

    done = finetune(read_network(file, recipe), pictures, Finetuning(**training), kept, base=base, progress=progress)
    return done.content, {
        "density": done.density,
        "trained_on": done.trained_on,
        "held_out": done.held_out,
        "held_out_top1_before": done.top1_before,
        "held_out_top1": done.top1_after,
        "checkpoints": str(kept),
    }


def _preprocessing(path: Path | None) -> Preprocessing | None:
    if path is None:
        return None
    from model_registry.models.checkpoints import read_preprocessing
    from model_registry.models.files import read_file

    return read_preprocessing(read_file(path, max_bytes=MAX_SETTINGS_BYTES).decode(errors="replace"))


def _as_json(preprocessing: Preprocessing | None) -> dict[str, Any] | None:
    return preprocessing.to_json() if preprocessing else None


def _labels(path: Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    from model_registry.models.checkpoints import read_labels
    from model_registry.models.files import read_file

    return read_labels(read_file(path, max_bytes=MAX_SETTINGS_BYTES).decode(errors="replace"))


def _require_suffix(path: Path, *suffixes: str) -> None:
    if path.suffix not in suffixes:
        raise typer.BadParameter(f"{path} does not end in {' or '.join(suffixes)}", param_hint="--output")


def _refuse_same(source: Path, target: Path) -> None:
    if source.resolve() == target.resolve():
        raise typer.BadParameter("input and output are the same file", param_hint="--output")


@contextmanager
def _progress(title: str) -> Iterator[Callable[[float, str], None]]:
    """A bar on standard error while a command works; gone when it is done."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:>12}"), BarColumn(), TextColumn("{task.fields[step]}"), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=1.0, step="")
        yield lambda share, step: bar.update(task, completed=share, step=step)


def _report(values: dict[str, Any], as_json: bool, *, hidden: tuple[str, ...] = ()) -> None:
    """Print a command's result: JSON with everything, or a line a value and a table for rows."""
    if as_json:
        print(json.dumps(values))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    rows = {key: value for key, value in values.items() if isinstance(value, list) and value and isinstance(value[0], dict)}
    for key, value in values.items():
        if key not in rows and key not in hidden and value not in (None, [], {}):
            print(f"{key:<18}{_readable(value)}")
    for key, items in rows.items():
        if key not in hidden:
            columns = list(dict.fromkeys(column for item in items for column in item))
            table = Table(*columns, title=key, box=box.SIMPLE)
            for item in items:
                table.add_row(*(_readable(item.get(column, "")) for column in columns))
            console.print(table)


def _readable(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def run(program: typer.Typer, arguments: Sequence[str] | None = None) -> None:
    """Run a program and exit; a refusal, or the system's, becomes one line on standard error and exit code 1."""
    try:
        program(args=arguments, prog_name="deltafleet")
    except Refusal as refusal:
        print(f"deltafleet: {' '.join(str(refusal).split())}", file=sys.stderr)
        sys.exit(1)
    except OSError as exc:
        print(f"deltafleet: {exc.filename or 'the system'}: {exc.strerror or exc}", file=sys.stderr)
        sys.exit(1)


def main() -> None:
    """The commands of this file alone."""
    run(app)
