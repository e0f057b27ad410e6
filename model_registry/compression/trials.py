"""A row of settings, fine to coarse, tried on a network until the smallest artifact within a bound is found.

What an artifact does to the network is measured, and what was measured may be chance: accuracy on a few hundred pictures goes
up and down by a point from one setting to the next. A search may therefore be told what a setting is *expected* to do, by a
steadier measure. The row is halved down to the coarsest setting of which that is within the bound, and from there it goes finer
step by step until the damage that is seen is as well. Where nothing is left to chance both are the same, and that is the first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from model_registry.compression.pipeline import SourceNetwork, compress
from model_registry.compression.quantization import Setting
from model_registry.compression.rounding import Compensated
from model_registry.contract.content import Content
from model_registry.contract.delta import Codec
from model_registry.contract.full import encode_full
from model_registry.deltas import make_delta

Progress = Callable[[float, str], None]
AnySetting = Setting | Compensated | None


@dataclass(frozen=True, slots=True)
class Point:
    """One setting as it was seen. ``damage``: mean divergence in nats, share of an update lost, or points of top-1 lost.

    ``expected``: what it is expected to do elsewhere, where that is something else.
    """

    setting: str
    bytes: int
    damage: float
    expected: float | None = None

    def to_json(self) -> dict[str, object]:
        told = {"setting": self.setting, "bytes": self.bytes, "damage": self.damage}
        return told if self.expected is None else told | {"expected": self.expected}


@dataclass(frozen=True, slots=True, eq=False)
class Search:
    """The content that was chosen, the ``bytes`` that travelled for it when it was tried, and all points, large to small."""

    content: Content
    bytes: int
    points: tuple[Point, ...]


class Trials:
    """The row of ``settings`` by name, each compressed at most once and then finished.

    The first two are the ways out, which are not; the very first always holds.
    """

    def __init__(
        self,
        network: SourceNetwork,
        base: Content | None,
        settings: Mapping[str, AnySetting],
        progress: Progress,
        finish: Callable[[Content], Content] = lambda content: content,
    ) -> None:
        self._network, self._base, self._progress, self._finish = network, base, progress, finish
        self._names, self._settings = list(settings), list(settings.values())
        self._made: dict[int, tuple[Content, int]] = {}

    def smallest(
        self, measure: Callable[[Content], float], bound: float, expect: Callable[[str], tuple[Point, bool]] | None = None
    ) -> Search:
        """The smallest artifact whose damage was seen to be within ``bound``, and all that was seen on the way.

        ``expect`` tries a setting by name in a way that tells more than its artifact would: what was seen, and whether it
        promises to hold.
        """
        seen: dict[int, Point] = {}
        told: dict[int, tuple[Point, bool]] = {}

        def look(number: int) -> float:
            if number not in seen:
                content, size = self._trial(number)
                seen[number] = Point(self._names[number], size, round(measure(content), 6))
            return seen[number].damage

        def promises(number: int) -> bool:
            if expect is None:
                return look(number) <= bound
            if number not in told:
                told[number] = expect(self._names[number])
            return told[number][1]

        def holds(number: int) -> bool:
            return look(number) <= bound or number == 0

        # The ways out: what is larger than them need not be tried.
        known = min(self._trial(number)[1] for number in (0, 1) if holds(number))
        number = self._halve(promises)
        while not holds(number) and self._trial(number)[1] < known:
            self._progress(1 - 0.25 * number / len(self._settings), "trying finer settings")
            number -= 1
        best = min(filter(holds, seen), key=lambda number: self._trial(number)[1])
        points = sorted([*seen.values(), *(point for point, _ in told.values())], key=lambda point: -point.bytes)
        return Search(*self._trial(best), tuple(points))

    def _halve(self, holds: Callable[[int], bool]) -> int:
        """The coarsest setting that holds, if coarser ones hold ever less."""
        low, high, rounds = 0, len(self._settings), 0
        while high - low > 1:
            self._progress(0.5 + 0.25 * rounds / len(self._settings).bit_length(), "trying settings")
            middle, rounds = (low + high) // 2, rounds + 1
            low, high = (middle, high) if holds(middle) else (low, middle)
        return low

    def _trial(self, number: int) -> tuple[Content, int]:
        if number not in self._made:
            content = compress(self._network, self._settings[number], base=self._base)
            content = self._finish(content) if number > 1 else content
            self._made[number] = content, travelling(content, self._base)
        return self._made[number]


def travelling(content: Content, base: Content | None) -> int:
    """Bytes of the delta, or of the full artifact without a base."""
    return len(encode_full(content) if base is None else make_delta(base, content, Codec.MODEL).data)
