"""Followers of live pages: what they get, how often is drawn for them, how many there may be, and how it ends."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import wraps

import pytest

from server.dashboard.live import Live, told_at_once

DEADLINE_S = 5.0


def on_a_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async test to its end, or fail at the deadline."""

    @wraps(test)
    def run() -> None:
        async def bounded() -> None:
            await asyncio.wait_for(test(), DEADLINE_S)

        asyncio.run(bounded())

    return run


@dataclass(slots=True)
class Page:
    """A page whose regions the test sets; it counts how often it is drawn."""

    regions: dict[str, str] = field(default_factory=lambda: {"a": "1", "b": "1"})
    drawn: int = 0

    def draw(self, _topic: str) -> Mapping[str, str]:
        self.drawn += 1
        return dict(self.regions)


def sitting(stack: ExitStack, live: Live[str], topic: str = "x") -> AsyncIterator[Mapping[str, str]]:
    changes = stack.enter_context(live.seat(topic))
    assert changes is not None
    return changes


@on_a_loop
async def test_a_follower_gets_everything_first_and_then_only_what_changed() -> None:
    page = Page()
    live = Live(page.draw, interval_s=0.01)
    with ExitStack() as stack:
        changes = sitting(stack, live)
        assert await anext(changes) == {"a": "1", "b": "1"}
        page.regions["b"] = "2"
        assert await anext(changes) == {"b": "2"}


@on_a_loop
async def test_many_followers_of_one_page_are_drawn_for_once() -> None:
    page = Page()
    live = Live(page.draw, interval_s=60)
    with ExitStack() as stack:
        followers = [sitting(stack, live) for _ in range(20)]
        await asyncio.gather(*(anext(changes) for changes in followers))
    assert page.drawn == 1


@on_a_loop
async def test_a_slow_page_is_drawn_less_often() -> None:
    now_s = 0.0
    drawn_at: list[float] = []

    def draw(_topic: str) -> Mapping[str, str]:
        nonlocal now_s
        drawn_at.append(now_s)
        now_s += 2
        return {"a": str(len(drawn_at))}

    live = Live(draw, interval_s=0.001, clock=lambda: now_s)
    with ExitStack() as stack:
        first, second = sitting(stack, live), sitting(stack, live)
        await anext(first)
        now_s = 19.9
        await anext(second)
        assert drawn_at == [0.0]
        now_s = 20.1
        late = sitting(stack, live)
        await anext(late)
        assert drawn_at == [0.0, 20.1]


@on_a_loop
async def test_there_are_only_so_many_seats_and_a_left_one_is_free_again() -> None:
    live = Live(Page().draw, most_followers=2)
    with ExitStack() as stack:
        sitting(stack, live, "x")
        with live.seat("y") as second:
            assert second is not None
            with live.seat("z") as third:
                assert third is None
        with live.seat("z") as third:
            assert third is not None
    assert live.followers == 0


@on_a_loop
async def test_the_end_wakes_everybody_and_nobody_else_gets_in() -> None:
    live = Live(Page().draw, interval_s=3600)
    with ExitStack() as stack:
        changes = sitting(stack, live)
        await anext(changes)
        waiting = asyncio.ensure_future(anext(changes, None))
        await asyncio.sleep(0)
        live.end()
        assert await waiting is None
        with live.seat("x") as late:
            assert late is None


@on_a_loop
async def test_a_signal_reaches_us_and_the_handler_that_was_there() -> None:
    told: list[str] = []
    ended = asyncio.Event()
    earlier = signal.signal(signal.SIGTERM, lambda *_: told.append("server"))
    try:
        with told_at_once(ended.set):
            signal.raise_signal(signal.SIGTERM)
            await ended.wait()
        assert told == ["server"]
        signal.raise_signal(signal.SIGTERM)
        assert told == ["server", "server"]
    finally:
        signal.signal(signal.SIGTERM, earlier)


@on_a_loop
async def test_a_signal_without_a_handler_keeps_its_default() -> None:
    earlier = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with told_at_once(lambda: pytest.fail("nobody asked")):
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, earlier)
