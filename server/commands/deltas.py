"""``deltafleet deltas``: the ways that a family's vehicles take, and the deltas on them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from model_registry.contract.fields import NAME, SEMVER
from server.commands.client import DEFAULT_SERVER, Json, RegistryRefused, Server, Token, registry_client, require_name
from server.commands.output import table, tell

deltas_app = typer.Typer(no_args_is_help=True, help="See which deltas lead where, and retire them.")
Family = Annotated[str, typer.Option(help="Whose deltas.")]


@deltas_app.command()
def plan(
    family: Family,
    target: Annotated[
        str | None, typer.Option(help="Ways to this version. Default: the one that is rolled out, or newest.")
    ] = None,
    server: Server = DEFAULT_SERVER,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """The cheapest way from each version, what would be made for the target now, and what nobody needs. Changes nothing."""
    found = _graph(family, server, token, target)
    told = {key: found[key] for key in ("family", "target", "ways", "to_make", "to_retire", "metadata_bytes")}
    tell(told, as_json, _plan_lines(found))


@deltas_app.command("list")
def list_(family: Family, server: Server = DEFAULT_SERVER, token: Token = None, as_json: Json = False) -> None:
    """Every artifact of a family: deltas and full ones, with their bytes, what they lose, and who would take them."""
    edges = _graph(family, server, token)["edges"]
    rows = [
        [
            edge["base"] or "nothing",
            edge["version"],
            edge["state"],
            f"{edge['bytes']:,}" if edge["bytes"] is not None else "",
            edge["codec"] or ("" if edge["base"] else "full"),
            percent(edge["lost"]),
            str(edge["vehicles"]),
        ]
        for edge in edges
    ]
    tell({"items": edges}, as_json, table(rows, "FROM", "TO", "STATE", "BYTES", "CODEC", "LOST", "VEHICLES"))


@deltas_app.command()
def retire(
    family: Family,
    *,
    base: Annotated[str | None, typer.Option(help="Only the delta from this version; with --version.")] = None,
    version: Annotated[str | None, typer.Option(help="Only the delta to this version; with --base.")] = None,
    server: Server = DEFAULT_SERVER,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Retire what nobody needs, or one delta. It leaves signed metadata; vehicles take another way.

    Example: [bold]deltafleet deltas retire --family signs --base 1.0.0 --version 3.0.0[/bold]
    """
    require_name(family, NAME, "family")
    if (base is None) != (version is None):
        raise typer.BadParameter("--base and --version belong together")
    with registry_client(server, token) as registry:
        if base is None or version is None:
            retired = registry.post(f"/api/v1/families/{family}/deltas/retire")["items"]
        else:
            for number in (base, version):
                if not SEMVER.fullmatch(number):
                    raise RegistryRefused(f"{number!r} is not a version", remedy="use MAJOR.MINOR.PATCH, for example 2.0.0")
            retired = [registry.delete(f"/api/v1/families/{family}/deltas/{base}/{version}")]
    lines = [f"{row['base']} to {row['version']} is {row['state']} ({row['because']})" for row in retired]
    tell({"items": retired}, as_json, lines or [f"every delta of {family} is needed"])


def _graph(family: str, server: str, token: str | None, target: str | None = None) -> dict[str, Any]:
    require_name(family, NAME, "family")
    with registry_client(server, token) as registry:
        return registry.get(f"/api/v1/families/{family}/graph", target=target)


def percent(lost: float | None) -> str:
    """A share of an update that was not delivered, or nothing where nobody measured it."""
    return "" if lost is None else f"{100 * lost:.2g} %"


def _plan_lines(found: dict[str, Any]) -> list[str]:
    if found["target"] is None:
        return [f"{found['family']} has no published version yet"]
    rows = [
        [
            way["base"] or "anything else",
            str(way["vehicles"]),
            "full artifact" if way["by_full"] else " > ".join([way["base"], *way["passes"]]),
            f"{way['bytes']:,}",
        ]
        for way in found["ways"]
    ]
    return [
        f"ways to {found['family']} {found['target']}:",
        *table(rows, "FROM", "VEHICLES", "WAY", "BYTES"),
        *[f"to make: {base} to {found['target']}" for base in found["to_make"]],
        *[f"to retire: {row['base']} to {row['version']} ({row['because']})" for row in found["to_retire"]],
        f"deltas and releases in signed metadata: {found['metadata_bytes']:,} bytes",
    ]
