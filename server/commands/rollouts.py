"""``deltafleet rollout``: bring a version to a family's vehicles, wave by wave."""

from __future__ import annotations

import math
from typing import Annotated, Any

import typer

from server.commands.client import DEFAULT_SERVER, Json, RegistryClient, RegistryRefused, Server, Token, registry_client
from server.commands.output import table, tell

rollout_app = typer.Typer(no_args_is_help=True, help="Bring a version to vehicles in guarded waves.")
RolloutId = Annotated[int, typer.Argument(metavar="ID", min=1, help="The rollout's number.")]


def _percentages(text: str) -> list[float]:
    try:
        percentages = [float(part) for part in text.split(",")]
    except ValueError:
        percentages = [math.nan]
    if not all(map(math.isfinite, percentages)):
        raise typer.BadParameter(f"{text!r} is not a list of percentages such as 25,50,100", param_hint="--waves")
    return percentages


@rollout_app.command()
def create(
    family: Annotated[str, typer.Option(help="Whose vehicles.")],
    version: Annotated[str, typer.Option(help="A published version.")],
    *,
    waves: Annotated[str, typer.Option(help="Growing percentages of the family's vehicles.")] = "25,50,100",
    success_threshold: Annotated[float, typer.Option(help="Percent of a wave that opens the next.", min=0, max=100)] = 100,
    error_threshold: Annotated[float, typer.Option(help="Percent of failures above which it pauses.", min=0, max=100)] = 20,
    min_executed: Annotated[int, typer.Option(help="Vehicles that must have finished before failures count.", min=1)] = 1,
    start: Annotated[bool, typer.Option("--start", help="Start it at once.")] = False,
    server: Server = DEFAULT_SERVER,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Plan a rollout.

    Example: [bold]deltafleet rollout create --family signs --version 2.0.0 --waves 10,50,100 --start[/bold]
    """
    plan = {
        "family": family,
        "version": version,
        "waves": _percentages(waves),
        "success_threshold_percent": success_threshold,
        "error_threshold_percent": error_threshold,
        "min_executed": min_executed,
    }
    with registry_client(server, token) as registry:
        made = registry.post("/api/v1/rollouts", plan)
        if start:
            made = _started(registry, made["id"])
    hint = [] if start else [f"start it with: deltafleet rollout start {made['id']}"]
    tell(made, as_json, [*_lines(made), *hint])


@rollout_app.command("list")
def list_(
    family: Annotated[str | None, typer.Option(help="Only of this family.")] = None,
    server: Server = DEFAULT_SERVER,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """All rollouts, newest first."""
    with registry_client(server, token) as registry:
        found = registry.all_items("/api/v1/rollouts", family=family)
    rows = [
        [str(r["id"]), r["family"], r["version"], r["state"], f"{r['succeeded']}/{r['vehicles']}", str(r["failed"])]
        for r in found
    ]
    tell({"items": found}, as_json, table(rows, "ID", "FAMILY", "VERSION", "STATE", "DONE", "FAILED"))


@rollout_app.command()
def show(rollout: RolloutId, server: Server = DEFAULT_SERVER, token: Token = None, as_json: Json = False) -> None:
    """One rollout: its waves, its failures, its bytes."""
    with registry_client(server, token) as registry:
        found = registry.get(f"/api/v1/rollouts/{rollout}")
        found["bandwidth"] = registry.get(f"/api/v1/rollouts/{rollout}/bandwidth")
    tell(found, as_json, [*_lines(found), *_bill(found["bandwidth"])])


def _started(registry: RegistryClient, rollout: int) -> dict[str, Any]:
    """Start what was just planned. A refusal names the plan, which stays, so that nobody makes a second one."""
    try:
        return registry.post(f"/api/v1/rollouts/{rollout}/start")
    except RegistryRefused as exc:
        remedy = f"{exc.remedy}; then run: deltafleet rollout start {rollout}"
        raise RegistryRefused(f"rollout {rollout} is planned and not started: {exc.message}", remedy=remedy) from exc


def _tell(rollout: int, action: str, server: str, token: str | None, as_json: bool) -> None:
    with registry_client(server, token) as registry:
        told = registry.post(f"/api/v1/rollouts/{rollout}/{action}")
    tell(told, as_json, _lines(told))


@rollout_app.command()
def start(rollout: RolloutId, server: Server = DEFAULT_SERVER, token: Token = None, as_json: Json = False) -> None:
    """Fix who takes part and open the first wave."""
    _tell(rollout, "start", server, token, as_json)


@rollout_app.command()
def pause(rollout: RolloutId, server: Server = DEFAULT_SERVER, token: Token = None, as_json: Json = False) -> None:
    """Let no further vehicle begin; those that have begun end what they do."""
    _tell(rollout, "pause", server, token, as_json)


@rollout_app.command()
def resume(rollout: RolloutId, server: Server = DEFAULT_SERVER, token: Token = None, as_json: Json = False) -> None:
    """Go on. Failures so far no longer halt the rollout."""
    _tell(rollout, "resume", server, token, as_json)


@rollout_app.command()
def abort(rollout: RolloutId, server: Server = DEFAULT_SERVER, token: Token = None, as_json: Json = False) -> None:
    """End it for every vehicle that has not finished. Vehicles that have the version keep it."""
    _tell(rollout, "abort", server, token, as_json)


def _lines(rollout: dict[str, Any]) -> list[str]:
    head = f"rollout {rollout['id']}: {rollout['family']} {rollout['version']} is {rollout['state']}"
    because = [f"  because {rollout['halted_because']}"] if rollout["halted_because"] else []
    waves = [
        f"  wave {w['number']} (to {w['percent']:g} %) {w['state']}: {w['vehicles']} vehicles,"
        f" {w['succeeded']} succeeded, {w['failed']} failed"
        for w in rollout["waves"]
    ]
    until = [f"  waits until {rollout['waiting_until']}"] if rollout["waiting_until"] else []
    return [head, *because, *until, *waves]


def _bill(bandwidth: dict[str, Any]) -> list[str]:
    received, other = bandwidth["received"], bandwidth["counterfactuals"]
    return [
        f"  received: {received['delta']:,} bytes of deltas, {received['full']:,} of full models,"
        f" {received['metadata']:,} of metadata",
        f"  otherwise: {other['float32_full']:,} as float32, {other['compressed_full']:,} as compressed fulls,"
        f" {other['bsdiff4_float16']:,} by bsdiff4 on float16",
        *[f"  failed with {failure['code']}: {failure['count']}" for failure in bandwidth["failures"]],
    ]
