"""The second decoder's part for sparse changes, from docs/container-format.md alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.contract.second_stream import Symbols

SIZE, BLOCKS = 1 << 19, 256


@dataclass
class Block:
    """The contexts of values by place, and those of their steps; ``finish`` takes the steps of those that change."""

    contexts: list[int]
    of_steps: list[int]
    step_contexts: int
    finish: Callable[[dict[int, int]], None]

    def groups(self) -> Iterator[list[int]]:
        """The places of every context that occurs."""
        places: dict[int, list[int]] = {}
        for place, context in enumerate(self.contexts):
            places.setdefault(context, []).append(place)
        yield from (places[context] for context in sorted(set(places) - {-1}))


def read_pools(blocks: list[Block], symbols: Symbols) -> None:
    pool: list[Block] = []
    for number, block in enumerate(blocks, 1):
        pool.append(block)
        full = sum(len(b.contexts) for b in pool) >= SIZE or len(pool) == BLOCKS
        if full or number == len(blocks):
            read_pool(pool, symbols)
            pool = []


def read_pool(pool: list[Block], symbols: Symbols) -> None:
    groups = [(number, places) for number, block in enumerate(pool) for places in block.groups()]
    rooms = [len(places) for _, places in groups]
    counts = symbols.numbers(len(rooms), [room.bit_length() for room in rooms])
    told = [min(count, room - count) for count, room in zip(counts, rooms, strict=True)]
    widths, classes = [], []
    for room, count in zip(rooms, told, strict=True):
        h = (room * room // (count * count)).bit_length() - 1 if count else 0
        widths += [max(h // 2 - 2, 0)] * count
        classes += [min(h, 4 + h % 2)] * count
    high, low = symbols.numbers(len(widths), classes), symbols.low_bits(widths)
    gaps = iter([(h << w) | rest for h, w, rest in zip(high, widths, low, strict=True)])
    changed: list[tuple[int, int]] = []
    for (number, places), count, room, few in zip(groups, counts, rooms, told, strict=True):
        ranks, at = set(), -1
        for _ in range(few):
            at += next(gaps) + 1
            ranks.add(at)
        assert at < room
        assert count <= room
        changed += [(number, place) for rank, place in enumerate(places) if (rank in ranks) != (2 * count > room)]
    firsts = [sum(block.step_contexts for block in pool[:number]) for number in range(len(pool))]
    contexts = [firsts[number] + pool[number].of_steps[place] for number, place in changed]
    steps: list[dict[int, int]] = [{} for _ in pool]
    for (number, place), step in zip(changed, symbols.numbers(len(changed), contexts), strict=True):
        steps[number][place] = step + 1
    for block, own in zip(pool, steps, strict=True):
        block.finish(own)
