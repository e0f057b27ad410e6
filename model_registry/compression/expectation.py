"""The coarsest setting of a row that is expected to stay within a bound, when what each is seen to do is partly chance.

What is lost on a hundred pictures differs by a third from one price to the next. Halving the row alone would end with whichever
draw it met; here it only finds the neighbourhood. There settings are looked at until enough of them tell together what each is
expected to do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from statistics import fmean

# Settings of a row that double what a bit is worth, and how many times more is lost then: 1.3 to 1.9 in updates and networks.
OCTAVE, RISE = 12, 1.5
# So many settings within an octave either side tell what one of them does; those that are asked stand this far apart at first.
ENOUGH, APART = 10, 3


def halved(count: int, holds: Callable[[int], bool]) -> int:
    """The last number below ``count`` that holds, if those behind one that does not do not either; 0 is taken to hold."""
    low, high = 0, count
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def coarsest(count: int, look: Callable[[int], float], bound: float, first: int) -> int:
    """The last number below ``count`` that is expected to be within ``bound``, where ``look`` tells what each was seen to do.

    The numbers below ``first`` are no settings of the row: if even its finest does too much, the answer is the last of them
    that was seen to hold.
    """
    seen: dict[int, float] = {}

    def holds(number: int) -> bool:
        damage = look(number)
        if number >= first:
            seen[number] = damage
        return damage <= bound

    number = halved(count, holds)
    while number >= first:
        number = _crossing(seen, number, bound, range(first, count))
        asked = _next(seen, number, range(first, count))
        if asked is None:
            break
        holds(asked)
    return number


def stride(damage: float, limit: float) -> int:
    """How much finer a setting to look at where one does ``damage``: half as much as it usually takes, at least by one."""
    if not 0 < limit < damage < math.inf:
        return 1
    return max(int(OCTAVE * (math.log(damage) - math.log(limit)) / math.log(RISE) / 2), 1)


def _expected(seen: Mapping[int, float], number: int) -> float:
    """The mean of what was seen near, carried over by the usual rise."""
    near = {other: damage for other, damage in seen.items() if abs(other - number) <= OCTAVE}
    return fmean(damage * RISE ** ((number - other) / OCTAVE) for other, damage in near.items()) if near else math.nan


def _crossing(seen: Mapping[int, float], number: int, bound: float, row: range) -> int:
    """From ``number`` on as far finer as it takes to be within the bound, or as far coarser as that allows."""
    while number > row.start and _expected(seen, number) > bound:
        number -= 1
    while number + 1 < row.stop and _expected(seen, number + 1) <= bound:
        number += 1
    return number


def _next(seen: Mapping[int, float], number: int, row: range) -> int | None:
    """Which setting to look at so that enough is known about ``number``, itself first; none when it is."""
    near = range(max(number - OCTAVE, row.start), min(number + OCTAVE + 1, row.stop))
    missing = [other for other in near if other not in seen]
    if number in missing:
        return number
    if not missing or len(near) - len(missing) >= ENOUGH:
        return None
    return min(missing, key=lambda other: ((other - number) % APART != 0, abs(other - number), other))
