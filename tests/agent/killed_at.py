"""The agent's command line, but the process kills itself where KILL_AT says: ``STATE:MOMENT`` or ``write:N``.

``write:N`` is before the N-th rename or removal of a file: what a power cut leaves when it comes between two durable writes.
"""

from __future__ import annotations

import functools
import itertools
import os
import signal
import sys

from client_agent import agent, cli
from client_agent.machine import Moment
from client_agent.states import State


def end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def end_at_state(wanted: str, state: State, moment: Moment) -> None:
    if f"{state}:{moment}" == wanted:
        end()


def end_at_write(number: int) -> None:
    count = itertools.count(1)

    def look(event: str, arguments: object) -> None:
        if event in ("os.rename", "os.remove") and next(count) == number:
            end()

    sys.addaudithook(look)


if __name__ == "__main__":
    place, _, detail = os.environ["KILL_AT"].partition(":")
    if place == "write":
        end_at_write(int(detail))
    observe = functools.partial(end_at_state, os.environ["KILL_AT"])
    agent.Agent = functools.partial(agent.Agent, observe=observe)  # type: ignore[assignment, misc]
    sys.exit(cli.main(sys.argv[1:]))
