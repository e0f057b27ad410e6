"""What the demonstration prints at its end: the cost of each rollout, and what it would have cost otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

# Title, field of RolloutRow, whether a rule follows.
LINES = (
    ("vehicles", "vehicles", True),
    ("sent: metadata", "metadata", False),
    ("sent: delta", "delta", False),
    ("sent: full", "full", False),
    ("sent in total", "sent", True),
    ("float32 fulls would be", "float32_full", False),
    ("compressed fulls would be", "compressed_full", False),
    ("bsdiff4 on float16 would be", "bsdiff4_float16", False),
    ("saving against float32 fulls", "saving", True),
    ("inferences served", "served", False),
    ("inferences dropped", "dropped", False),
)


@dataclass(frozen=True, slots=True)
class RolloutRow:
    """One rollout as the registry accounted for it, and the inferences its vehicles answered meanwhile."""

    name: str
    vehicles: int
    metadata: int
    delta: int
    full: int
    float32_full: int
    compressed_full: int
    bsdiff4_float16: int
    served: int
    dropped: int

    @property
    def sent(self) -> int:
        return self.metadata + self.delta + self.full

    @property
    def saving(self) -> float:
        """Share of the bytes of float32 fulls that was not sent."""
        return 1 - self.sent / self.float32_full if self.float32_full else 0.0

    @classmethod
    def from_json(cls, name: str, value: dict[str, Any], *, served: int, dropped: int) -> RolloutRow:
        return cls(
            name=name,
            vehicles=value["vehicles"],
            **{kind: value["received"][kind] for kind in ("metadata", "delta", "full")},
            **{kind: value["counterfactuals"][kind] for kind in ("float32_full", "compressed_full", "bsdiff4_float16")},
            served=served,
            dropped=dropped,
        )


def print_table(console: Console, rows: list[RolloutRow]) -> None:
    """One column a rollout, so that it fits a narrow terminal; bytes in full, since a fleet pays for each."""
    table = Table(title="What the rollouts cost, in bytes", title_justify="left", header_style="bold")
    table.add_column("rollout")
    for row in rows:
        table.add_column(row.name, justify="right")
    for title, field, ends_section in LINES:
        values = [getattr(row, field) for row in rows]
        shown = [f"{v:.2%}" if isinstance(v, float) else f"{v:,}" for v in values]
        table.add_row(title, *shown, end_section=ends_section)
    console.print(table)


def broken_promises(rows: list[RolloutRow], versions: dict[str, str], expected_version: str) -> list[str]:
    """What the demonstration promised and did not show; empty when all is well."""
    update_rows = rows[1:]
    problems = [f"rollout {r.name}: {r.dropped} inferences were dropped" for r in rows if r.dropped]
    problems += [f"rollout {r.name}: deltas did not save bytes" for r in update_rows if not 0 < r.delta < r.compressed_full]
    return problems + [f"{v} runs {have}, not {expected_version}" for v, have in versions.items() if have != expected_version]
