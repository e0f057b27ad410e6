"""The program ``deltafleet``: the publisher's commands of ``model_registry`` and the registry's own."""

from __future__ import annotations

from model_registry.cli import app, run
from server.commands.deltas import deltas_app
from server.commands.publishing import publish
from server.commands.rollouts import rollout_app
from server.commands.serving import migrate, serve, worker
from server.commands.vehicles import vehicles_app

app.command()(publish)
app.add_typer(deltas_app, name="deltas")
app.add_typer(rollout_app, name="rollout")
app.add_typer(vehicles_app, name="vehicles")
app.command()(serve)
app.command()(worker)
app.command()(migrate)


def main() -> None:
    """Run the program."""
    run(app)
