"""How commands tell their results: one JSON object for scripts, a table or a few lines for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def tell(value: Mapping[str, Any], as_json: bool, lines: Sequence[str]) -> None:
    """A result as JSON, or as lines."""
    print(json.dumps(value) if as_json else "\n".join(lines))


def table(rows: Sequence[Sequence[str]], *columns: str) -> list[str]:
    """Left-aligned columns under their heads; plain text, so that it can be piped."""
    widths = [max(len(row[n]) for row in [columns, *rows]) for n in range(len(columns))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [columns, *rows]]
