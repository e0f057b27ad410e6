"""The command line in this process, as a script sees it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from model_registry.cli import app, run


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command left: exit code and both streams."""

    code: int
    out: str
    err: str

    def json(self) -> dict[str, Any]:
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value


Command = Callable[..., Outcome]


@pytest.fixture
def deltafleet(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the program with arguments."""

    def command(*arguments: str | Path) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run(app, [str(argument) for argument in arguments])
        streams = capsys.readouterr()
        return Outcome(int(ended.value.code or 0), streams.out, streams.err)

    return command
