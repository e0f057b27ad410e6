"""A row of settings, fine to coarse, tried on a network until the smallest artifact within a limit is found.

What an artifact does to the network is measured, and what was measured may be chance. So there are two questions: how coarse a
setting promises to be good enough (expectation.py, or a steadier measure), and whether what came of it is seen to be. From the
coarsest that promises to, the row goes finer until it is, in strides where far too much is seen, and back by halves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from model_registry.compression.calibration import Calibration
from model_registry.compression.expectation import OCTAVE, stride
from model_registry.compression.pipeline import SourceNetwork, compress
from model_registry.compression.quantization import Setting
from model_registry.compression.rounding import Compensated
from model_registry.contract.content import Content
from model_registry.contract.delta import Codec
from model_registry.contract.full import encode_full
from model_registry.deltas import make_delta

Progress = Callable[[float, str], None]
AnySetting = Setting | Compensated | None
# Nats a bit, twelve to an octave: from hardly any change to a tenth of the size of a careful setting. Finer than all
# of them are the ways out: None, which is lossless and always holds, and the default.
PRICES = tuple(float(f"{1e-10 * 2 ** (n / OCTAVE):.3g}") for n in range(179))
_WAYS_OUT: Mapping[str, AnySetting] = MappingProxyType({"lossless": None, "default": Setting()})
WAYS_OUT = len(_WAYS_OUT)
# A search looks at ten to twenty settings: the bar is in the middle after so many.
USUAL = 10


@dataclass(frozen=True, slots=True)
class Point:
    """One setting as it was seen. ``damage``: mean divergence in nats, share of an update lost, or points of top-1 lost.

    ``expected``: what it is expected to do elsewhere, where that was measured.
    """

    setting: str
    bytes: int
    damage: float
    expected: float | None = None

    def to_json(self) -> dict[str, object]:
        told = {"setting": self.setting, "bytes": self.bytes, "damage": self.damage}
        return told if self.expected is None else told | {"expected": self.expected}


Look = Callable[[int], Point]


@dataclass(frozen=True, slots=True)
class Untempered:
    """The share of an update that is ``lost`` in the answers as they are, and its standard ``error``."""

    lost: float
    error: float


@dataclass(frozen=True, slots=True, eq=False)
class Search:
    """The content that was chosen, the ``bytes`` that travelled for it when it was tried, and all points, large to small.

    Where what is lost of an update was bounded: ``untempered``, and ``noise``, the share of the update that the base's line of
    models errs anyway.
    """

    content: Content
    bytes: int
    points: tuple[Point, ...]
    untempered: Untempered | None = None
    noise: float = 0.0

    def with_points(self, more: Iterable[Point]) -> Search:
        """The same with what was seen elsewhere as well."""
        return replace(self, points=tuple(sorted({*self.points, *more}, key=lambda point: -point.bytes)))


def settings_row(measured: Calibration) -> dict[str, AnySetting]:
    """What may be chosen, fine to coarse."""
    return {**_WAYS_OUT} | {f"price {price:g}": Compensated(measured, price) for price in PRICES}


class Trials:
    """The row of ``settings`` by name, the ways out first, each compressed at most once; all but those are then finished."""

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

    def smallest(self, measure: Callable[[Content], float], limit: float, promising: Callable[[Look], int]) -> Search:
        """The smallest artifact whose damage was seen to be within ``limit``, and all that was seen on the way.

        ``promising``: the number of the coarsest setting that may be chosen, found by looking at some.
        """
        seen: dict[int, Point] = {}

        def look(number: int) -> Point:
            if number not in seen:
                content, size = self._trial(number)
                seen[number] = Point(self._names[number], size, round(measure(content), 6))
            return seen[number]

        def holds(number: int) -> bool:
            return look(number).damage <= limit or number == 0

        def ends(number: int) -> bool:
            # What is larger than the ways out need not be tried.
            return holds(number) or self._trial(number)[1] >= known

        coarsest = promising(look)
        known = min(self._trial(number)[1] for number in range(WAYS_OUT) if holds(number))
        number, failing = coarsest, coarsest + 1
        while not ends(number):
            failing, number = number, _finer(number, look(number).damage, limit)
        # A stride may have gone over settings that hold as well.
        while failing - number > 1:
            middle = (number + failing) // 2
            number, failing = (middle, failing) if ends(middle) else (number, middle)
        held = [number for number in seen if number <= coarsest and holds(number)]
        best = min(held, key=lambda number: self._trial(number)[1])
        return Search(*self._trial(best), tuple(sorted(seen.values(), key=lambda point: -point.bytes)))

    def content(self, number: int) -> Content:
        """What came of a setting."""
        return self._trial(number)[0]

    def _trial(self, number: int) -> tuple[Content, int]:
        if number not in self._made:
            self._progress(0.5 + 0.5 * len(self._made) / (len(self._made) + USUAL), "trying settings")
            content = compress(self._network, self._settings[number], base=self._base)
            content = self._finish(content) if number >= WAYS_OUT else content
            self._made[number] = content, travelling(content, self._base)
        return self._made[number]


def _finer(number: int, damage: float, limit: float) -> int:
    """What to try after a setting that does too much; the ways out come one after the other."""
    return max(number - stride(damage, limit), WAYS_OUT) if number > WAYS_OUT else number - 1


def travelling(content: Content, base: Content | None) -> int:
    """Bytes of the delta, or of the full artifact without a base."""
    return len(encode_full(content) if base is None else make_delta(base, content, Codec.MODEL).data)
