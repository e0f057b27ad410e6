"""The dashboard teaches commands: each one must be there, with the options that it is shown with."""

from __future__ import annotations

import re
import shlex

import pytest
import typer
from typer.core import TyperCommand, TyperGroup

import server.cli  # noqa: F401 - it adds the registry's commands to the program
from model_registry.cli import app
from server.dashboard.pages import TEMPLATES

SHOWN = re.compile(r"d\.command\('([^']+)'( ~ [a-z.]+)?\)")


def shown_commands() -> list[str]:
    texts = (path.read_text() for path in TEMPLATES.rglob("*.html"))
    # What a template fills in, like a family's name, stands for one word.
    return sorted({words + ("x" if filled_in else "") for text in texts for words, filled_in in SHOWN.findall(text)})


def test_commands_are_shown() -> None:
    assert len(shown_commands()) >= 6


@pytest.mark.parametrize("line", shown_commands())
def test_a_shown_command_can_be_typed(line: str) -> None:
    command = typer.main.get_command(app)
    words = shlex.split(line)
    while isinstance(command, TyperGroup):
        command = command.commands[words.pop(0)]
    assert isinstance(command, TyperCommand)
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known
