"""The commands keep the manners of the others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.registry.cli.conftest import Command, deltafleet

__all__ = ["deltafleet"]


def test_unknown_names_are_wrong_usage(deltafleet: Command) -> None:
    assert deltafleet("bench", "bytes", "--only", "nonsense").code == 2
    assert deltafleet("bench", "train", "nonsense").code == 2


def test_artifacts_are_not_kept_among_other_files(deltafleet: Command, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("of another run")
    outcome = deltafleet("bench", "bytes", "--keep", tmp_path)
    assert outcome.code == 2
    assert "--keep" in outcome.err


def test_no_reference_data_is_one_line(deltafleet: Command, tmp_path: Path) -> None:
    for command in ("train", "bytes"):
        outcome = deltafleet("bench", command, "--reference", tmp_path / "nowhere")
        assert outcome.code == 1
        assert outcome.err.startswith("deltafleet: no reference data at")
        assert outcome.err.count("\n") == 1


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys; from model_registry.cli import app, run\n"
        "try: run(app, ['bench', 'bytes', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'onnxruntime', 'PIL', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert "--peers" in done.stdout
    assert done.stdout.strip().endswith("[]")
