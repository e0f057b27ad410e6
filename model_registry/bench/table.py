"""The result of a run as tables for people and as one JSON value for scripts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from model_registry.bench.comparison import CONTENT, EXACT, FLOAT16, FLOAT32, OURS, Row
from model_registry.bench.measuring import Coding
from model_registry.bench.scenarios import FirstVersion
from model_registry.bench.targets import Check, verdict
from model_registry.contract.limits import MIB

NOTHING = "-"
INPUTS = {CONTENT: "our content", FLOAT16: "float16 weights", FLOAT32: "float32 weights"}


@dataclass(frozen=True, slots=True)
class Result:
    """``peers``: each tool's version, None for one that is missing; ``machine``: what it was measured on.

    ``failures``: scenarios that have no row, and why.
    """

    rows: tuple[Row, ...]
    peers: Mapping[str, str | None]
    machine: Mapping[str, str]
    failures: tuple[str, ...] = ()

    @property
    def broken(self) -> list[str]:
        """Everything that must not be: no artifact, or one that does not decode to its content."""
        return [*self.failures, *(f"{row.scenario.name}: {reason}" for row in self.rows for reason in row.broken)]


def to_json(result: Result) -> dict[str, Any]:
    """Everything that was measured. Sizes and memory in bytes, times in seconds, accuracies and losses as shares."""
    return {
        "machine": dict(result.machine),
        "peers": dict(result.peers),
        "missing": [name for name, version in result.peers.items() if version is None],
        "rows": [asdict(row) | {"ratios": _ratios(row), "broken": row.broken} for row in result.rows],
        "failures": list(result.failures),
        "targets": [asdict(check) for check in verdict(result.rows)],
    }


def show(result: Result, console: Console) -> None:
    """The tables: sizes, the tools one by one, what arrives, what it costs, and the verdict."""
    missing = [name for name, version in result.peers.items() if version is None]
    if missing:
        console.print(f"missing, so not in the tables (make bench-peers installs them): {', '.join(missing)}\n")
    for table in (
        _sizes(result.rows),
        *(_tools(result, kind) for kind in INPUTS),
        _arrivals(result.rows),
        _costs(result.rows),
        _verdict(verdict(result.rows)),
    ):
        console.print(table)
    for row in result.rows:
        for reason in row.failed:
            console.print(f"{row.scenario.name}: {reason}")
    for failure in result.failures:
        console.print(failure)


def _ratios(row: Row) -> dict[str, float | None]:
    """Best tool / ours, by what the tool was given; ours on float32 is the exact artifact."""
    pairs = {CONTENT: OURS, FLOAT16: OURS, FLOAT32: OURS, "exact_float32": EXACT}
    return {
        name: _ratio(row.best(FLOAT32 if name == "exact_float32" else name), row.best(ours)) for name, ours in pairs.items()
    }


def _ratio(peer: Coding | None, own: Coding | None) -> float | None:
    return round(peer.bytes / own.bytes, 3) if peer and own else None


def _sizes(rows: Iterable[Row]) -> Table:
    table = _table(
        "Bytes: ours beside the best general tool (x: that many times ours)",
        ("scenario", "full", "model delta", "bsdiff4", "zstd", "content x", "float16 x", "exact", "float32 x"),
    )
    for row in rows:
        ratios = _ratios(row)
        deltas = (_bytes(row.ours(OURS, f"delta {codec}")) for codec in ("model", "bsdiff4", "zstd"))
        peers = (f"{_tool(row.best(kind))} {_times(ratios[kind])}".strip() for kind in (CONTENT, FLOAT16))
        exact = (_bytes(row.best(EXACT)), f"{_tool(row.best(FLOAT32))} {_times(ratios['exact_float32'])}".strip())
        table.add_row(row.scenario.name, _bytes(row.ours(OURS, "full")), *deltas, *peers, *exact)
    return table


def _tools(result: Result, kind: str) -> Table:
    table = _table(f"Bytes of the general tools on the {INPUTS[kind]}", ("scenario", *result.peers))
    for row in result.rows:
        cells = ["missing" if version is None else _bytes(row.ours(kind, name)) for name, version in result.peers.items()]
        if row.codings.get(kind):
            table.add_row(row.scenario.name, *cells)
    return table


def _arrivals(rows: Iterable[Row]) -> Table:
    table = _table(
        "What arrives: of updates on held-out pictures, of first versions on the pictures named (top-1 of the float network -> "
        "of the artifact)",
        ("scenario", "setting", "lost, said", "lost", "of float", "KL, nats", "before", "after"),
    )
    for row in rows:
        setting = ", ".join(f"{key} {value:.3g}" if isinstance(value, float) else key for key, value in row.setting.items())
        delivered = row.delivered
        if delivered is None:
            seen = [f"{name}: {a.of_float:.1%} -> {a.shipped:.1%}" for name, a in row.accuracy.items()]
            table.add_row(row.scenario.name, setting, *[NOTHING] * 4, *seen)
            continue
        top1 = (f"{a.of_float:.1%} -> {a.shipped:.1%}" for a in (delivered.before, delivered.after))
        lost = (_share(value) for value in (row.lost_said, delivered.lost, delivered.lost_of_float))
        table.add_row(row.scenario.name, setting, *lost, f"{delivered.divergence:.5f}", *top1)
    return table


def _costs(rows: Iterable[Row]) -> Table:
    """Ours, and of the tools the one that was smallest on the content."""
    table = _table(
        "CPU seconds and peak MiB above the result, one thread",
        ("scenario", "coder", "compress s", "encode s", "decode s", "encode MiB", "decode MiB"),
    )
    for row in rows:
        for coding in (
            row.ours(OURS, "full"),
            *[row.best(OURS)] * (not isinstance(row.scenario, FirstVersion)),
            row.best(CONTENT),
        ):
            if coding is not None:
                own = f"{row.compress_cpu_s:.1f}" if coding in row.codings.get(OURS, ()) else NOTHING
                times = (f"{cost.cpu_s:.3f}" for cost in (coding.encode, coding.decode))
                memory = (f"{cost.peak_bytes / MIB:.1f}" for cost in (coding.encode, coding.decode))
                table.add_row(row.scenario.name, coding.coder, own, *times, *memory)
    return table


def _verdict(checks: Iterable[Check]) -> Table:
    table = _table("Targets", ("target", "owed", "figure", "reached", "aim", "reached", "measured on"), left=(0, 6))
    for check in checks:
        figure = NOTHING if check.figure is None else f"{check.figure:,.4g}" if check.figure < 1000 else f"{check.figure:,.0f}"
        yes = [NOTHING if met is None else "yes" if met else "NO" for met in (check.reached, check.aim_reached)]
        table.add_row(check.target, check.owed, figure, yes[0], check.aim, yes[1], check.note)
    return table


def _table(title: str, columns: Sequence[str], *, left: Sequence[int] = (0,)) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number in left else "right", overflow="fold")
    return table


def _bytes(coding: Coding | None) -> str:
    if coding is None:
        return NOTHING
    return f"{coding.bytes:,}" if coding.decodes else f"{coding.bytes:,} BROKEN"


def _tool(coding: Coding | None) -> str:
    return f"{coding.coder} {coding.bytes:,}," if coding else NOTHING


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


def _share(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2%}"
