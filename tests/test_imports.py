"""The vehicle stays light: what the import linter cannot see (package files, lazy imports) is looked at in a fresh process."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {
    "torch",
    "onnx",
    "boto3",
    "sqlalchemy",
    "fastapi",
    "starlette",
    "pydantic",
    "httpx2",
    "bsdiff4",
    "typer",
    "rich",
    "server",
}


def modules_after(statement: str) -> set[str]:
    """Top-level names in ``sys.modules`` of a new interpreter after ``statement``."""
    program = f"{statement}\nimport sys\nprint('\\n'.join({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["client_agent.cli", "client_agent.machine", "client_agent.inference.service"])
def test_the_agent_loads_nothing_heavy(module: str) -> None:
    assert not modules_after(f"import {module}") & HEAVY


def test_the_contract_needs_only_numpy_and_the_codecs() -> None:
    statement = "import pkgutil, importlib, model_registry.contract as c\n" + (
        "[importlib.import_module(m.name) for m in pkgutil.walk_packages(c.__path__, 'model_registry.contract.')"
        " if not m.name.endswith('.session')]"
    )
    assert not modules_after(statement) & (HEAVY | {"onnxruntime", "tuf", "cryptography", "urllib3", "PIL"})


def test_the_api_process_never_loads_torch() -> None:
    assert not modules_after("import server.app, server.api, server.worker, server.bootstrap") & {
        "torch",
        "onnx",
        "client_agent",
    }


def test_help_is_answered_without_torch() -> None:
    assert "torch" not in modules_after("import server.cli")
