"""What the product promises in bytes, and what of it a run of the benchmark reaches. Every decision is here, and pure.

A target has what is owed and, for some, what is aimed at. It is judged where its scenario was measured, and counts as not
reached when the update that it is about lost more than the target allows.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from model_registry.bench.comparison import CONTENT, EXACT, FLOAT16, FLOAT32, OURS, Row
from model_registry.bench.scenarios import Change, Update
from model_registry.contract.limits import MIB

# A share of the pictures is a ratio of small whole numbers.
EPSILON = 1e-9


@dataclass(frozen=True, slots=True)
class Figure:
    """What was measured; ``valid`` is False where a condition of the target does not hold, which ``note`` says."""

    value: float
    note: str = ""
    valid: bool = True


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the verdict; ``reached`` and ``aim_reached`` are None where nothing was measured or nothing is aimed at."""

    target: str
    owed: str
    aim: str
    figure: float | None
    note: str
    reached: bool | None
    aim_reached: bool | None


@dataclass(frozen=True, slots=True)
class _Target:
    name: str
    unit: str
    owed: float
    aim: float | None
    figure: Callable[[Sequence[Row]], Figure | None]
    at_least: bool = False

    def check(self, rows: Sequence[Row]) -> Check:
        found = self.figure(rows)
        sign = ">=" if self.at_least else "<="
        owed, aim = (f"{sign} {bound:,g} {self.unit}".rstrip() if bound is not None else "" for bound in (self.owed, self.aim))
        if found is None:
            return Check(self.name, owed, aim, None, "not measured", None, None)
        return Check(self.name, owed, aim, found.value, found.note, self._holds(found, self.owed), self._holds(found, self.aim))

    def _holds(self, found: Figure, bound: float | None) -> bool | None:
        if bound is None:
            return None
        return found.valid and (operator.ge if self.at_least else operator.le)(found.value, bound)


def verdict(rows: Sequence[Row]) -> list[Check]:
    """Every target with what these rows say of it."""
    return [target.check(rows) for target in TARGETS]


def _full_within(points: float) -> Callable[[Sequence[Row]], Figure | None]:
    """The smallest artifact of the published network that loses at most so many points on all labelled pictures."""

    def figure(rows: Sequence[Row]) -> Figure | None:
        fitting = []
        for row in rows:
            seen, coding = row.accuracy.get("all pictures"), row.best(OURS)
            if seen is None or coding is None or not row.scenario.name.startswith("imagenet"):
                continue
            if 100 * (seen.of_float - seen.shipped) <= points + EPSILON:
                fitting.append(Figure(coding.bytes, f"{row.scenario.name}: top-1 {seen.of_float:.1%} -> {seen.shipped:.1%}"))
        return min(fitting, key=lambda found: found.value, default=None)

    return figure


def _delta(*names: str, max_lost: float) -> Callable[[Sequence[Row]], Figure | None]:
    """The largest delta of these scenarios, all of them, with what was lost on held-out pictures."""

    def figure(rows: Sequence[Row]) -> Figure | None:
        found = [(row, coding) for row in _named(rows, names) if (coding := row.best(OURS)) is not None]
        if len(found) < len(names):
            return None
        row, coding = max(found, key=lambda pair: pair[1].bytes)
        worst = max((_lost(row) for row, _ in found), default=0.0)
        return Figure(coding.bytes, f"{row.scenario.name}, lost at most {worst:.2%} held out", worst <= max_lost)

    return figure


def _against(kind: str, ours: str, wanted: Callable[[Update], bool]) -> Callable[[Sequence[Row]], Figure | None]:
    """The smallest of the ratios best general tool on ``kind`` / ours."""

    def figure(rows: Sequence[Row]) -> Figure | None:
        ratios = []
        for row in rows:
            peer, own = row.best(kind), row.best(ours)
            if peer and own and isinstance(row.scenario, Update) and wanted(row.scenario):
                ratios.append(Figure(peer.bytes / own.bytes, f"{row.scenario.name}, against {peer.coder}"))
        return min(ratios, key=lambda found: found.value, default=None)

    return figure


def _dense_share(rows: Sequence[Row]) -> Figure | None:
    for row in _named(rows, ("signs-weekly",)):
        peer, own = row.best(FLOAT16), row.best(OURS)
        if peer and own:
            note = f"{own.bytes:,} of {peer.bytes:,} ({peer.coder}), lost {_lost(row):.2%} held out"
            return Figure(own.bytes / peer.bytes, note, _lost(row) <= 0.05)
    return None


def _decode(kind: str, of: Callable[[float, int], float]) -> Callable[[Sequence[Row]], Figure | None]:
    def figure(rows: Sequence[Row]) -> Figure | None:
        found = []
        for row in rows:
            own = row.ours(OURS, "full") if kind == "full" else row.best(OURS)
            if own and (kind == "full" or isinstance(row.scenario, Update)):
                found.append(Figure(of(own.decode.cpu_s, own.decode.peak_bytes), row.scenario.name))
        return max(found, key=lambda figure: figure.value, default=None)

    return figure


def _decoded(rows: Sequence[Row]) -> Figure | None:
    wrong = [f"{row.scenario.name}: {reason}" for row in rows for reason in row.broken]
    return Figure(float(len(wrong)), "; ".join(wrong[:3])) if rows else None


def _named(rows: Iterable[Row], names: Sequence[str]) -> list[Row]:
    return [row for row in rows if row.scenario.name in names]


def _lost(row: Row) -> float:
    """On held-out pictures; without, nothing was delivered that anybody could tell of."""
    return row.delivered.lost if row.delivered else math.inf


def _any(_: Update) -> bool:
    return True


def _dense(update: Update) -> bool:
    return update.change is Change.DENSE


def _milliseconds(cpu_s: float, _: int) -> float:
    return 1000 * cpu_s


def _mebibytes(_: float, peak_bytes: int) -> float:
    return peak_bytes / MIB


TARGETS = (
    _Target("full SqueezeNet v1.0, no top-1 loss on all pictures", "B", 410_000, 390_000, _full_within(0)),
    _Target("full, at most 0.5 points lost", "B", 350_000, 320_000, _full_within(0.5)),
    _Target("classifier only, lost <= 1 %", "B", 9_000, 7_000, _delta("classifier-only", max_lost=0.01)),
    _Target(
        "all layers, slight or stronger, lost <= 5 %",
        "B",
        35_000,
        20_000,
        _delta("all-layers-slightly", "all-layers-more", max_lost=0.05),
    ),
    _Target("dense network retrained a little: delta / best tool on float16, lost <= 5 %", "", 0.05, 0.02, _dense_share),
    _Target("biases or centroids only, lost <= 5 %", "B", 4_500, None, _delta("biases", "centroids", max_lost=0.05)),
    _Target("same content: best tool / ours", "x", 2.0, 3.0, _against(CONTENT, OURS, _any), at_least=True),
    _Target("exact float32, dense changes: best tool / ours", "x", 1.4, None, _against(FLOAT32, EXACT, _dense), at_least=True),
    _Target("exact float32, all changes: best tool / ours", "x", 1.0, None, _against(FLOAT32, EXACT, _any), at_least=True),
    _Target("decode a full artifact, CPU", "ms", 100, None, _decode("full", _milliseconds)),
    _Target("decode a delta, CPU", "ms", 50, None, _decode("delta", _milliseconds)),
    _Target("decode a full artifact, memory above the content", "MiB", 64, None, _decode("full", _mebibytes)),
    _Target("decode a delta, memory above the content", "MiB", 64, None, _decode("delta", _mebibytes)),
    _Target("artifacts that do not decode in a fresh process", "", 0, None, _decoded),
)
