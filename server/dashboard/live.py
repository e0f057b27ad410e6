"""Live pages: who follows which page, how often it is drawn again, and when all of it ends.

Rules: a page is drawn once per interval however many people look at it; drawing never takes more than about a tenth of the
time, so a slow query makes the page slower and not the database; the number of followers is bounded; and everybody is sent
home the moment the process is asked to end, because a server waits for open responses before it tells the application.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Generic, TypeVar

from starlette.concurrency import run_in_threadpool

Topic = TypeVar("Topic", bound=Hashable)
Regions = Mapping[str, str]
"""A page's changeable parts: HTML by name."""

MOST_FOLLOWERS = 64
INTERVAL_S = 1.0
IDLE_FACTOR = 9


@dataclass(slots=True)
class _Feed:
    """One page that somebody looks at."""

    followers: int = 0
    regions: Regions = field(default_factory=dict)
    fresh_until_s: float = 0.0
    drawing: asyncio.Lock = field(default_factory=asyncio.Lock)


class Live(Generic[Topic]):
    """Draws pages with ``draw`` (in a thread) and hands each follower what changed since the last look."""

    def __init__(
        self,
        draw: Callable[[Topic], Regions],
        *,
        most_followers: int = MOST_FOLLOWERS,
        interval_s: float = INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._draw, self._clock = draw, clock
        self._most_followers, self._interval_s = most_followers, interval_s
        self._feeds: dict[Topic, _Feed] = {}
        self._ending = asyncio.Event()

    @property
    def followers(self) -> int:
        return sum(feed.followers for feed in self._feeds.values())

    @contextmanager
    def seat(self, topic: Topic) -> Iterator[AsyncIterator[Regions] | None]:
        """A place among the followers of a page, or None when all are taken or the process is ending."""
        if self.followers >= self._most_followers or self._ending.is_set():
            yield None
            return
        feed = self._feeds.setdefault(topic, _Feed())
        feed.followers += 1
        try:
            yield self._changes(topic, feed)
        finally:
            feed.followers -= 1
            if not feed.followers:
                self._feeds.pop(topic, None)

    def end(self) -> None:
        """Send every follower home; nobody is let in any more."""
        self._ending.set()

    async def _changes(self, topic: Topic, feed: _Feed) -> AsyncIterator[Regions]:
        seen: Regions = {}
        while not self._ending.is_set():
            regions = await self._fresh(topic, feed)
            changed = {name: html for name, html in regions.items() if seen.get(name) != html}
            seen = regions
            if changed:
                yield changed
            await self._wait(max(self._interval_s, feed.fresh_until_s - self._clock()))

    async def _fresh(self, topic: Topic, feed: _Feed) -> Regions:
        async with feed.drawing:
            begun = self._clock()
            if begun >= feed.fresh_until_s:
                feed.regions = await run_in_threadpool(self._draw, topic)
                took = self._clock() - begun
                # A little less than the interval, so that a follower who wakes up on time finds it due.
                feed.fresh_until_s = begun + took + max(self._interval_s * 0.9, IDLE_FACTOR * took)
            return feed.regions

    async def _wait(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._ending.wait(), seconds)
        except TimeoutError:
            return


@contextmanager
def told_at_once(callback: Callable[[], None]) -> Iterator[None]:
    """Run ``callback`` on the event loop as soon as SIGTERM or SIGINT arrives, before the server's own handler does its part.

    Only where a handler is installed already and in the main thread; elsewhere signals are somebody else's business.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    earlier = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def told(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(callback)
        handler = earlier[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    chained = [number for number, handler in earlier.items() if callable(handler)]
    for number in chained:
        signal.signal(number, told)
    try:
        yield
    finally:
        for number in chained:
            if signal.getsignal(number) is told:
                signal.signal(number, earlier[number])
