"""``deltafleet vehicles``: who is in the fleet, and who may come in."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from model_registry.contract.messages import VEHICLE_ID
from server.commands.client import DEFAULT_SERVER, Json, Server, Token, registry_client, require_name
from server.commands.output import table, tell

vehicles_app = typer.Typer(no_args_is_help=True, help="See the fleet; let vehicles in.")
VehicleId = Annotated[str, typer.Argument(metavar="ID", help="The vehicle's name.")]


@vehicles_app.command("list")
def list_(
    family: Annotated[str | None, typer.Option(help="Only of this family.")] = None,
    state: Annotated[str | None, typer.Option(help="Only pending, accepted or rejected ones.")] = None,
    server: Server = DEFAULT_SERVER,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """All vehicles by name."""
    with registry_client(server, token) as registry:
        found = registry.all_items("/api/v1/vehicles", family=family, state=state)
    rows = [[v["id"], v["family"], v["state"], _version(v), v["seen_at"] or "never"] for v in found]
    tell({"items": found}, as_json, table(rows, "ID", "FAMILY", "STATE", "RUNS", "SEEN"))


@vehicles_app.command()
def show(vehicle: VehicleId, server: Server = DEFAULT_SERVER, token: Token = None, as_json: Json = False) -> None:
    """One vehicle and its latest deployments."""
    require_name(vehicle, VEHICLE_ID, "vehicle")
    with registry_client(server, token) as registry:
        found = registry.get(f"/api/v1/vehicles/{vehicle}")
    lines = [
        f"{found['id']} ({found['family']}, {found['hardware_id']}) is {found['state']} and runs {_version(found)}",
        f"  seen: {found['seen_at'] or 'never'}; inferences: {found['inferences_served']:,} served,"
        f" {found['inferences_failed']:,} failed",
    ]
    for row in found["deployments"]:
        why = f" ({row['code']}: {row['detail']})" if row["code"] else ""
        lines.append(f"  rollout {row['rollout_id']}: {row['state']}{why}")
    tell(found, as_json, lines)


@vehicles_app.command()
def accept(vehicle: VehicleId, server: Server = DEFAULT_SERVER, token: Token = None, as_json: Json = False) -> None:
    """Let an enrolled vehicle take part."""
    _settle(vehicle, "accept", server, token, as_json)


@vehicles_app.command()
def reject(vehicle: VehicleId, server: Server = DEFAULT_SERVER, token: Token = None, as_json: Json = False) -> None:
    """Turn a vehicle away. Its name can then be enrolled with another key."""
    _settle(vehicle, "reject", server, token, as_json)


def _settle(vehicle: str, action: str, server: str, token: str | None, as_json: bool) -> None:
    require_name(vehicle, VEHICLE_ID, "vehicle")
    with registry_client(server, token) as registry:
        found = registry.post(f"/api/v1/vehicles/{vehicle}/{action}")
    tell(found, as_json, [f"{found['id']} is {found['state']}"])


@vehicles_app.command("token")
def token_(
    family: Annotated[str, typer.Option(help="For vehicles of this family.")],
    *,
    count: Annotated[int, typer.Option(help="How many.", min=1, max=10_000)] = 1,
    accept: Annotated[
        bool,
        typer.Option("--accept/--ask", help="Whether who holds the token is let in at once, or waits for `vehicles accept`."),
    ] = True,
    server: Server = DEFAULT_SERVER,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Make one-time enrolment tokens. They are shown once."""
    with registry_client(server, token) as registry:
        made = registry.post("/api/v1/enrolment-tokens", {"count": count, "family": family, "auto_accept": accept})
    tell(made, as_json, made["tokens"])


def _version(vehicle: dict[str, Any]) -> str:
    return vehicle["installed"]["version"] if vehicle["installed"] else "nothing"
