"""A program run alone on one thread, as a vehicle decodes, which answers with one JSON object."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from typing import Any

from model_registry.contract.decoder_environment import DECODER_ENVIRONMENT

ENVIRONMENT = dict.fromkeys(("MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "RAYON_NUM_THREADS"), "1") | dict(DECODER_ENVIRONMENT)


class ProcessFailed(Exception):
    """It ended badly, or not in time; the text is the last line that it wrote, or the time that it took."""


def run_alone(command: Sequence[str], *, deadline_s: int) -> dict[str, Any]:
    """What the program printed. Raises ProcessFailed."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=deadline_s, check=False, env={**os.environ, **ENVIRONMENT}
        )
    except subprocess.TimeoutExpired as exc:
        raise ProcessFailed(f"it takes more than {deadline_s} s") from exc
    if done.returncode != 0:
        raise ProcessFailed((done.stderr.strip().splitlines() or ["no word"])[-1])
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
