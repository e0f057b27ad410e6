"""The second decoder's part for floats that drifted, from docs/container-format.md alone."""

from __future__ import annotations

import math

from tests.contract.second_stream import Bytes, Symbols, as_bits, as_float, ordered, packed, unordered, unzigzag

BLOCK = 1 << 18


def drift(form: str, shape: tuple[int, ...], weights: list[float], blob: Bytes, symbols: Symbols) -> list[int]:
    """The new values as bits."""
    rows, columns = shape[:2] if len(shape) > 1 else (1, 1)
    width, crossing = {"f": 32, "e": 16}[form], len(weights) // (rows * columns)
    spreads, before = [], 0
    for number in symbols.numbers(rows):
        before += unzigzag(number)
        spreads.append(before)
    sent = iter(symbols.numbers(sum(spread > 0 for spread in spreads)))
    centres = [unzigzag(next(sent)) if spread else 0 for spread in spreads]
    moving = symbols.partition(columns, 2)
    zeros_stay = symbols.bits(1, 1)[0]
    sent = iter([] if zeros_stay else symbols.partition(sum(spread > 0 for spread in spreads), 16))
    leans = [next(sent, 0) if spread else 0 for spread in spreads]
    values = [as_bits(w, form) for w in weights]
    for start in range(0, len(weights), BLOCK):
        block = range(start, min(start + BLOCK, len(weights)))
        row_of = {i: i // (columns * crossing) for i in block}
        active = [i for i in block if spreads[row_of[i]] and moving[i // crossing % columns]]
        zeros = [i for i in active if weights[i] == 0]
        moved = dict.fromkeys(zeros, False)
        if not zeros_stay:
            contexts = [leans[row_of[i]] for i in zeros]
            for i, fate in zip(zeros, symbols.grouped(len(zeros), contexts, 3), strict=True):
                values[i], moved[i] = as_bits(-0.0 if fate == 1 else 0.0, form), fate == 2
        active = [i for i in active if moved.get(i, True)]
        cells = [cell(weights[i], spreads[row_of[i]], centres[row_of[i]], form) for i in active]
        tokens = symbols.grouped(len(active), [context for _, _, context in cells], 128)
        open_bits = packed(blob, [max(t // 4 - 2, 0) if t >= 16 else 0 for t in tokens])
        firsts, sizes = [], []
        for token, rest, (expected, step, _) in zip(tokens, open_bits, cells, strict=True):
            n = unzigzag(token if token < 16 else ((4 + token % 4) << (token // 4 - 2)) | rest)
            low, high = (ordered(as_bits(expected + k * step, form), width) for k in (n, n + 1))
            firsts.append(low)
            sizes.append(max(high - low - 1, 0).bit_length())
        for i, first, place in zip(active, firsts, packed(blob, sizes), strict=True):
            values[i] = unordered(first + place, width)
    return values


def clip(value: int, low: int, high: int) -> int:
    return max(low, min(high, value))


def cell(weight: float, spread: int, centre: int, form: str) -> tuple[float, float, int]:
    """Expected value, width of a cell, and context."""
    octaves = spread // 2 - 160
    largest = 65504.0 if form == "e" else (2 - 2.0**-23) * 2.0**127
    rounded = as_float(as_bits(weight + centre * 2.0 ** (octaves - 2), form), form)
    expected = max(-largest, min(largest, rounded))
    least, mantissa = (-14, 10) if form == "e" else (-126, 23)
    exponent = math.frexp(expected)[1] - 1 if expected else least
    unit = max(exponent, least) - mantissa
    step = 2.0 ** (unit + max(octaves - unit - 2, 0))
    return expected, step, 2 * (clip(octaves - unit, -4, 3) + 4) + spread % 2
