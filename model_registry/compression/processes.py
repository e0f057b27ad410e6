"""Work that falls into independent parts, each part in a process of its own: numpy keeps one processor busy at a time.

What comes out does not depend on how many processes there are. They end with the process that started them, however that ends.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Protocol, TypeVar

from model_registry.contract.errors import Refusal

Task = TypeVar("Task")
Result = TypeVar("Result")
# More do not help: the largest layer of a network takes a good part of the time by itself.
MOST = 8
# Weights beside the largest part's below which starting processes takes longer than the work.
WORTH_IT = 200_000
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class ProcessLost(Refusal):
    """A process that did a part of the work ended before it was done."""

    code = "process_lost"


class Each(Protocol):
    """Does ``function`` to every one of ``tasks``, in whatever order, and returns the results in theirs.

    ``weights``: how much work each is. Raises ProcessLost, and what ``function`` raises.
    """

    def __call__(self, function: Callable[[Task], Result], tasks: Sequence[Task], weights: Sequence[int]) -> list[Result]: ...


def one_by_one(function: Callable[[Task], Result], tasks: Sequence[Task], weights: Sequence[int]) -> list[Result]:  # noqa: ARG001
    """In this process."""
    return [function(task) for task in tasks]


def processors() -> int:
    """As many as this process may use, or as OMP_NUM_THREADS says, as for the libraries under numpy."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return int(wanted) if wanted.isdecimal() and int(wanted) else len(os.sched_getaffinity(0))


@contextmanager
def at_once(count: int | None = None) -> Iterator[Each]:
    """Several at once, in ``count`` processes (by default one for each processor), which are started when they are needed."""
    count = min(count or processors(), MOST)
    if count == 1:
        yield one_by_one
        return
    context = get_context("spawn")  # a copy of this process may hold locks of threads that it does not have
    theirs, alive = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_begin, initargs=(theirs,))

    def each(function: Callable[[Task], Result], tasks: Sequence[Task], weights: Sequence[int]) -> list[Result]:
        if sum(weights) - max(weights, default=0) < WORTH_IT:
            return one_by_one(function, tasks, weights)
        # The largest first, so that none of them is begun when all others are done.
        order = sorted(range(len(tasks)), key=lambda number: -weights[number])
        begun = {number: pool.submit(function, tasks[number]) for number in order}
        try:
            return [begun[number].result() for number in range(len(tasks))]
        except BrokenProcessPool as exc:
            raise ProcessLost(
                "a process that worked on a layer ended by itself", remedy="if memory is short, set OMP_NUM_THREADS=1"
            ) from exc

    try:
        yield each
    except BaseException:
        alive.close()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        alive.close()


def _begin(alive: Connection) -> None:
    """In a new process, before numpy is loaded: one thread, no interest in Ctrl-C, and an end with who started it."""
    os.environ.update(dict.fromkeys(THREADS, "1"))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(alive,), daemon=True).start()


def _end_with(alive: Connection) -> None:
    """Nothing is ever sent: what is waited for is that the other end is closed, by its process or by that process's end."""
    with suppress(EOFError, OSError):
        alive.recv_bytes()
    os._exit(1)
