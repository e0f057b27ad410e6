"""The agent's command line, but the process kills itself at one moment of one state: ``STATE:MOMENT`` in KILL_AT."""

from __future__ import annotations

import functools
import os
import signal
import sys

from client_agent import agent, cli
from client_agent.machine import Moment
from client_agent.states import State


def kill_at(wanted: str, state: State, moment: Moment) -> None:
    if f"{state}:{moment}" == wanted:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    observe = functools.partial(kill_at, os.environ["KILL_AT"])
    agent.Agent = functools.partial(agent.Agent, observe=observe)  # type: ignore[assignment, misc]
    sys.exit(cli.main(["run", *sys.argv[1:]]))
