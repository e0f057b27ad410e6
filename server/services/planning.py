"""The delta graph: which deltas to make, the cheapest way for a vehicle, and which deltas nobody needs any more.

Contents are nodes, named by their digests; "nothing", which every vehicle has, is None. An artifact is an edge: a delta leads
from its base, a full artifact from nothing. Everything here takes values and returns values. Rules:

- A way costs the bytes of its artifacts and of their entries in signed metadata: one for each delta, and one for each version
  that it passes, which would not be listed otherwise. It is bounded in hops, in the contents that are held at once, and in the
  time that rebuilding takes on a slow vehicle.
- A delta straight from a base is worth making when what it can save exceeds its price. It can save at most the hops that it
  leaps over (or the full artifact, where there is no chain), for each vehicle on that base; its price is its entry in signed
  metadata, for each vehicle of the fleet. The delta from the release before is always made: chains end with it.
- A delta is needed while it lies on the cheapest way from what somebody runs to what somebody may be asked to run.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from server.tables import RetiredBecause

# One artifact's entry in its role's metadata, measured with 64-digit digests and a family's name of some letters.
DELTA_ENTRY_BYTES = 160
FULL_ENTRY_BYTES = 350
FULL = "full"
# Content bytes rebuilt per second, a fifth of what one core of a server does; a child process starts once for the whole way.
REBUILD_BYTES_PER_S: Mapping[str, float] = {FULL: 5e6, "model": 2.5e6, "bsdiff4": 5e6, "zstd": 40e6}
SLOWEST_BYTES_PER_S = min(REBUILD_BYTES_PER_S.values())


@dataclass(frozen=True, slots=True)
class Edge:
    """An artifact; ``base`` None: a full one. ``content_bytes`` and ``base_bytes``: sizes of what it leads to and from."""

    base: str | None
    content: str
    size_bytes: int
    content_bytes: int
    base_bytes: int = 0
    codec: str = FULL

    @property
    def cost_bytes(self) -> int:
        return self.size_bytes + (0 if self.base is None else DELTA_ENTRY_BYTES)

    @property
    def held_bytes(self) -> int:
        """The two contents that are in memory while it is applied."""
        return self.content_bytes + self.base_bytes

    @property
    def rebuild_s(self) -> float:
        return self.content_bytes / REBUILD_BYTES_PER_S.get(self.codec, SLOWEST_BYTES_PER_S)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one way may ask of a vehicle: artifacts, bytes of contents held at once, seconds of rebuilding."""

    hops: int
    held_bytes: int
    rebuild_s: float


DEFAULT_BOUNDS = Bounds(hops=3, held_bytes=1024**3, rebuild_s=60.0)


@dataclass(frozen=True, slots=True)
class Way:
    """Artifacts to take one after the other."""

    edges: tuple[Edge, ...]

    @property
    def is_chain(self) -> bool:
        """Whether it needs what runs; else it is a full artifact."""
        return bool(self.edges) and self.edges[0].base is not None

    @property
    def size_bytes(self) -> int:
        return sum(edge.size_bytes for edge in self.edges)

    @property
    def cost_bytes(self) -> int:
        return sum(edge.cost_bytes for edge in self.edges) + FULL_ENTRY_BYTES * max(0, len(self.edges) - 1)

    @property
    def rebuild_s(self) -> float:
        return sum(edge.rebuild_s for edge in self.edges)


@dataclass(order=True, slots=True)
class _Label:
    """A way so far, ordered as the search takes them up: cheapest, then fewest hops, then quickest, then by name."""

    cost_bytes: int
    hops: int
    rebuild_s: float
    contents: tuple[str, ...]
    edges: tuple[Edge, ...] = field(compare=False)

    def is_no_better_than(self, other: _Label) -> bool:
        return other.cost_bytes <= self.cost_bytes and other.hops <= self.hops and other.rebuild_s <= self.rebuild_s


def cheapest_way(base: str | None, target: str, edges: Iterable[Edge], bounds: Bounds) -> Way | None:
    """The fewest bytes from ``base`` (or from nothing) to ``target`` within bounds; None when there is no way.

    Dijkstra over bytes. A node keeps several labels, because a dearer way with fewer hops may be the one that can go on.
    """
    outgoing: defaultdict[str | None, list[Edge]] = defaultdict(list)
    for edge in edges:
        if edge.held_bytes <= bounds.held_bytes:
            outgoing[edge.base].append(edge)
    start = _Label(0, 0, 0.0, (), ())
    waiting = [start]
    settled: defaultdict[str, list[_Label]] = defaultdict(list)
    while waiting:
        label = heapq.heappop(waiting)
        here = label.contents[-1] if label.contents else base
        if here == target:
            return Way(label.edges)
        if here is not None and label is not start:
            if any(label.is_no_better_than(known) for known in settled[here]):
                continue
            settled[here].append(label)
        if label.hops < bounds.hops:
            # What it runs or has rebuilt leads on; nothing is something that it has from the start.
            leading = [*outgoing[here], *(outgoing[None] if label is start and here is not None else [])]
            for edge in leading:
                following = _followed(label, edge)
                if following.rebuild_s <= bounds.rebuild_s:
                    heapq.heappush(waiting, following)
    return None


def _followed(label: _Label, edge: Edge) -> _Label:
    passed = FULL_ENTRY_BYTES if label.contents else 0
    return _Label(
        label.cost_bytes + edge.cost_bytes + passed,
        label.hops + 1,
        label.rebuild_s + edge.rebuild_s,
        (*label.contents, edge.content),
        (*label.edges, edge),
    )


def deltas_to_build(
    vehicles: Mapping[str, int],
    previous: str | None,
    deltas: Collection[Edge],
    *,
    full_bytes: int,
    bounds: Bounds,
    limit: int,
) -> list[str]:
    """Bases of the deltas to make for a new release, at most ``limit``, the release before first.

    ``vehicles``: how many run each older content, the newest release first; ``full_bytes``: what the new release costs whoever
    has no delta. ``deltas`` are those that exist.
    """
    if previous is None:
        return []
    fleet = sum(vehicles.values())
    by_vehicles = sorted((base for base in vehicles if base != previous), key=lambda base: -vehicles[base])
    leaps = Bounds(bounds.hops - 1, bounds.held_bytes, bounds.rebuild_s)
    chosen = [previous]
    for base in by_vehicles:
        chain = cheapest_way(base, previous, deltas, leaps)
        saves_at_most = min(chain.cost_bytes, full_bytes) if chain else full_bytes
        if vehicles[base] * saves_at_most > fleet * DELTA_ENTRY_BYTES:
            chosen.append(base)
    return chosen[:limit]


def unneeded_deltas(
    edges: Sequence[Edge], wanted: Collection[tuple[str | None, str]], bounds: Bounds
) -> list[tuple[Edge, RetiredBecause]]:
    """The deltas among ``edges`` that are on no cheapest way of ``wanted``: pairs of what is run and what may be asked for."""
    ways = [cheapest_way(base, target, edges, bounds) for base, target in wanted]
    needed = {(edge.base, edge.content) for way in ways if way for edge in way.edges}
    bases = {base for base, _ in wanted}
    return [
        (edge, RetiredBecause.DEARER if edge.base in bases else RetiredBecause.UNUSED)
        for edge in edges
        if edge.base is not None and (edge.base, edge.content) not in needed
    ]
