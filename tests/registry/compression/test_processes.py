"""Independent parts in processes of their own: the same results, errors that arrive, and nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from model_registry.compression import processes
from model_registry.compression.processes import ProcessLost, at_once, one_by_one
from tests.daemons import wait_until

WORK = [processes.WORTH_IT] * 4


def square(number: int) -> tuple[int, int]:
    return number * number, os.getpid()


def divided(number: int) -> float:
    return 1 / number


def killed(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def threads(_: int) -> list[str | None]:
    return [os.environ.get(name) for name in processes.THREADS]


def stuck(folder: str) -> None:
    """Says who it is, and never ends."""
    (Path(folder) / str(os.getpid())).touch()
    threading.Event().wait()


def has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_results_come_in_the_order_of_the_tasks() -> None:
    with at_once(2) as each:
        for weights in (WORK, WORK[::-1]):
            found = each(square, [3, 1, 4, 2], weights)
            assert [number for number, _ in found] == [9, 1, 16, 4]
            assert os.getpid() not in {pid for _, pid in found}


def test_work_that_is_not_worth_a_process_is_done_here() -> None:
    with at_once(2) as each:
        for weights in ([1, 1, 1, 1], [10**9, 0, 0, 0], []):
            assert {pid for _, pid in each(square, list(range(len(weights))), weights)} <= {os.getpid()}


def test_a_single_processor_works_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with at_once() as each:
        assert each is one_by_one
        assert {pid for _, pid in each(square, [1, 2, 3, 4], WORK)} == {os.getpid()}


@pytest.mark.parametrize("said", ["", "0", "many"])
def test_as_many_as_this_process_may_use(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert processes.processors() == len(os.sched_getaffinity(0))


def test_each_process_has_one_thread_for_its_sums() -> None:
    with at_once(2) as each:
        assert each(threads, [1, 2, 3, 4], WORK) == [["1", "1"]] * 4


def test_an_error_in_a_part_is_raised_here() -> None:
    with at_once(2) as each:
        with pytest.raises(ZeroDivisionError):
            each(divided, [1, 0, 1, 1], WORK)
        assert each(divided, [1, 2, 1, 1], WORK) == [1, 0.5, 1, 1]


def test_a_process_that_is_killed_is_told_with_the_remedy() -> None:
    with at_once(2) as each, pytest.raises(ProcessLost, match="set OMP_NUM_THREADS=1"):
        each(killed, [1, 2, 3, 4], WORK)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nobody_is_left_behind(tmp_path: Path, number: signal.Signals) -> None:
    program = (
        "from model_registry.compression.processes import at_once\n"
        "from tests.registry.compression.test_processes import WORK, stuck\n"
        f"with at_once(2) as each: each(stuck, [{str(tmp_path)!r}] * 4, WORK)\n"
    )
    environment: dict[str, Any] = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    with subprocess.Popen([sys.executable, "-c", program], env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: len(list(tmp_path.iterdir())) == 2, deadline_s=60, what="both processes")
            workers = [psutil.Process(int(path.name)) for path in tmp_path.iterdir()]
            process.send_signal(number)
            wait_until(lambda: all(has_ended(worker) for worker in workers), deadline_s=30, what="their end")
            process.wait(30)
        finally:
            process.kill()
