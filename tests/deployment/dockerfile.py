"""A Dockerfile as its instructions, stage by stage."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

INSTRUCTIONS = {"FROM", "ARG", "WORKDIR", "COPY", "RUN", "ENV", "USER", "VOLUME", "EXPOSE", "ENTRYPOINT", "CMD"}


@dataclass
class Stage:
    """``base``: image or earlier stage; ``lines``: (instruction, rest) in order."""

    base: str
    name: str
    lines: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        return [rest for word, rest in self.lines if word == instruction]

    @property
    def copies(self) -> list[tuple[str | None, list[str], str]]:
        """(stage copied from, sources, destination)"""
        found = []
        for rest in self.all("COPY"):
            words = shlex.split(rest)
            origin = words.pop(0).removeprefix("--from=") if words[0].startswith("--from=") else None
            found.append((origin, words[:-1], words[-1]))
        return found


def read_dockerfile(path: Path) -> list[Stage]:
    """Raises ValueError on a line that is no known instruction."""
    stages: list[Stage] = []
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE)
    for line in filter(None, re.sub(r"\\\n\s*", "", text).splitlines()):
        word, _, rest = line.partition(" ")
        if word not in INSTRUCTIONS or not rest.strip():
            raise ValueError(f"{path.name}: {line!r}")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            stages.append(Stage(base, name))
        else:
            stages[-1].lines.append((word, rest))
    return stages
