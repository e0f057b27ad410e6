"""``deltafleet publish``: a file becomes a published version."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from model_registry.contract.fields import NAME
from server.commands.client import (
    DEFAULT_SERVER,
    Json,
    RegistryClient,
    RegistryRefused,
    Server,
    Token,
    registry_client,
    require_name,
)
from server.commands.output import tell

POLL_S = 0.2
PIECE_BYTES = 256 * 1024
MAX_SETTINGS_BYTES = 16 * 1024 * 1024
Advance = Callable[[float, str], None]


def publish(
    file: Annotated[
        Path, typer.Argument(help="A .dfm, .safetensors or .onnx file.", exists=True, dir_okay=False, readable=True)
    ],
    *,
    family: Annotated[str, typer.Option(help="The line of models that this is a release of.")],
    version: Annotated[str, typer.Option(help="MAJOR.MINOR.PATCH.")],
    hardware_id: Annotated[
        str | None, typer.Option(help="Hardware class of the family, if it is new. Default: generic.", show_default=False)
    ] = None,
    arch: Annotated[str | None, typer.Option(help="Architecture, where the weights alone do not tell.")] = None,
    lossless: Annotated[bool, typer.Option("--lossless", help="Keep float32 bit for bit.")] = False,
    preprocess: Annotated[Path | None, typer.Option(help="JSON file: resize, crop, order, mean, scale.")] = None,
    labels: Annotated[Path | None, typer.Option(help="CSV file with the columns class_index and name.")] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until vehicles can have it, deltas included.")] = True,
    server: Server = DEFAULT_SERVER,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Publish a trained network: upload, compress, make deltas, sign.

    Repeating the command with the same file is safe. Example:
    [bold]deltafleet publish model.safetensors --family signs --version 1.0.0[/bold]
    """
    require_name(family, NAME, "family")
    recipe = _recipe(arch, lossless=lossless, preprocess=preprocess, labels=labels)
    with registry_client(server, token) as registry:
        _ensure_family(registry, family, hardware_id)
        with _bar("upload") as advance:
            sent = registry.upload(_pieces(file, advance), file.stat().st_size)
        wanted = {"version": version, "upload_id": sent["upload_id"], "recipe": recipe}
        taken = registry.post(f"/api/v1/families/{family}/versions", wanted)
        if wait:
            _await(registry, taken)
        made = registry.get(f"/api/v1/families/{family}/versions/{version}")
    tell(made, as_json, _lines(made))


def _recipe(arch: str | None, *, lossless: bool, preprocess: Path | None, labels: Path | None) -> dict[str, Any]:
    """Only what was asked for: a .dfm is taken as it is, and refuses wishes. Raises Refusal."""
    recipe: dict[str, Any] = {"architecture": arch} if arch else {}
    if lossless:
        recipe["lossless"] = True
    if preprocess or labels:
        from model_registry.models.checkpoints import read_labels, read_preprocessing
        from model_registry.models.files import read_file

        def text(path: Path) -> str:
            return read_file(path, max_bytes=MAX_SETTINGS_BYTES).decode(errors="replace")

        if preprocess:
            recipe["preprocessing"] = read_preprocessing(text(preprocess)).to_json()
        if labels:
            recipe["labels"] = list(read_labels(text(labels)))
    return recipe


def _ensure_family(registry: RegistryClient, family: str, hardware_id: str | None) -> None:
    known = [f for f in registry.all_items("/api/v1/families") if f["family"] == family]
    if not known or hardware_id is not None:
        registry.put(f"/api/v1/families/{family}", {"hardware_id": hardware_id or "generic"})


def _pieces(file: Path, advance: Advance) -> Iterator[bytes]:
    total, sent = max(file.stat().st_size, 1), 0
    with file.open("rb") as source:
        while piece := source.read(PIECE_BYTES):
            yield piece
            sent += len(piece)
            advance(sent / total, file.name)


def _await(registry: RegistryClient, taken: dict[str, Any]) -> None:
    """Follow the job, then the deltas that it asked for. Raises RegistryRefused when there will be no version."""
    with _bar("compress") as advance:
        while (job := registry.get(f"/api/v1/jobs/{taken['job_id']}"))["state"] in ("queued", "running"):
            advance(job["progress"], job["step"] or job["state"])
            time.sleep(POLL_S)
    if job["state"] == "failed":
        raise RegistryRefused(f"version {taken['version']} of {taken['family']} failed: {job['error']['detail']}")
    path = f"/api/v1/families/{taken['family']}/versions/{taken['version']}"
    with _bar("deltas") as advance:
        while waiting := registry.get(path)["deltas_in_the_making"]:
            advance(0.0, f"{waiting} in the making")
            time.sleep(POLL_S)


def _lines(made: dict[str, Any]) -> list[str]:
    if made["state"] != "published":
        return [f"{made['family']} {made['version']} is {made['state']}, job {made['job_id']}"]
    ratio = made["float32_bytes"] / made["full_bytes"]
    deltas = [f"  from {d['base_version']}: {d['bytes']:,} bytes ({d['codec']}){_lost(d['lost'])}" for d in made["deltas"]]
    size = f"{made['full_bytes']:,} bytes, {ratio:.1f} times less than the float32 weights"
    # Said once: by the delta from the base that it was measured from, or by itself where there is no such delta.
    untold = made["lost"] is not None and all(d["lost"] is None for d in made["deltas"])
    alone = [f"  lost {100 * made['lost']:.2g} % of the update"] if untold else []
    return [f"published {made['family']} {made['version']}: {size}", *deltas, *alone]


def _lost(share: float | None) -> str:
    return "" if share is None else f", lost {100 * share:.2g} % of the update"


@contextmanager
def _bar(title: str) -> Iterator[Advance]:
    """A progress bar on standard error; nothing where nobody looks."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:>10}"), BarColumn(), TextColumn("{task.fields[step]}"), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=1.0, step="")
        yield lambda share, step: progress.update(task, completed=share, step=step)
