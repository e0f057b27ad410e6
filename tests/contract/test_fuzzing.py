"""A short run of the fuzzer; the long one is ``python -m tests.contract.fuzzing 25000 SEED``."""

from __future__ import annotations

import re
import subprocess
import sys

MUTANTS = 1000


def test_mutated_artifacts_are_refused_within_bounded_memory_and_time() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.contract.fuzzing", str(MUTANTS), "1"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    refused = [int(number) for number in re.findall(r": (\d+) of", run.stdout)]
    assert len(refused) == 4
    # Some mutants change nothing that matters; most must be noticed, or the fuzzer is not mutating.
    assert min(refused) > 0.9 * MUTANTS
