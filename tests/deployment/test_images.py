"""The Dockerfiles, line by line: nothing floats, nobody is root, and a vehicle gets only what is a vehicle's."""

from __future__ import annotations

import fnmatch
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.deployment.dockerfile import Stage, read_dockerfile
from tests.reference import ROOT

# Packages whose module has another name.
MODULES = {"pillow": "PIL"}
DEPLOY = ROOT / "deploy"
FILES = sorted(DEPLOY.glob("Dockerfile*"))
FOR_EVERY_VEHICLE = {
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "model_registry/__init__.py",
    "model_registry/contract",
    "client_agent",
}


@pytest.fixture(params=FILES, ids=lambda path: path.name)
def stages(request: pytest.FixtureRequest) -> list[Stage]:
    path: Path = request.param
    return read_dockerfile(path)


def by_name(stages: list[Stage]) -> dict[str, Stage]:
    return {stage.name: stage for stage in stages if stage.name}


def ancestry(stage: Stage, known: dict[str, Stage]) -> list[Stage]:
    """The stage and those it is built from."""
    return [stage, *ancestry(known[stage.base], known)] if stage.base in known else [stage]


def test_there_are_images_for_the_registry_and_for_vehicles() -> None:
    assert [path.name for path in FILES] == ["Dockerfile", "Dockerfile.agent"]
    assert {"api", "worker"} < set(by_name(read_dockerfile(DEPLOY / "Dockerfile")))


def test_bases_are_pinned_and_stages_exist(stages: list[Stage]) -> None:
    seen: dict[str, Stage] = {}
    for stage in stages:
        assert stage.base in seen or stage.base.startswith("python:3.11-slim-"), stage.base
        assert all(origin is None or origin in seen for origin, _, _ in stage.copies)
        if stage.name:
            seen[stage.name] = stage


def test_everything_that_is_copied_exists(stages: list[Stage]) -> None:
    for stage in stages:
        for origin, sources, _ in stage.copies:
            assert origin or all((ROOT / source).exists() for source in sources), sources


def test_everything_that_is_copied_reaches_the_builder(stages: list[Stage]) -> None:
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    kept = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    assert patterns[0] == "*"
    for stage in stages:
        for source in (source for origin, sources, _ in stage.copies if not origin for source in sources):
            assert any(source == path or fnmatch.fnmatch(source, f"{path}/*") for path in kept), source


def test_final_images_run_as_nobody_in_particular(stages: list[Stage]) -> None:
    known = by_name(stages)
    bases = {stage.base for stage in stages} | {origin for stage in stages for origin, _, _ in stage.copies}
    for stage in (stage for stage in stages if stage.name not in bases or not stage.name):
        users = [user for part in reversed(ancestry(stage, known)) for user in part.all("USER")]
        assert users
        assert users[-1].split(":")[0].isdigit()
        assert int(users[-1].split(":")[0]) >= 10_000


def test_nothing_is_compiled_or_fetched_beside_the_package_installer(stages: list[Stage]) -> None:
    for stage in stages:
        for command in stage.all("RUN"):
            assert not {"apt-get", "curl", "wget", "gcc", "git"} & set(command.split())
            assert "pip install" not in command or "--only-binary :all:" in command


def test_commands_are_lists(stages: list[Stage]) -> None:
    for stage in stages:
        for command in stage.all("ENTRYPOINT") + stage.all("CMD"):
            assert isinstance(json.loads(command), list), "a shell would swallow SIGTERM"


def test_a_vehicle_gets_only_what_is_a_vehicles() -> None:
    build, final = read_dockerfile(DEPLOY / "Dockerfile.agent")
    copied = {source for origin, sources, _ in build.copies if not origin for source in sources}
    assert copied == FOR_EVERY_VEHICLE
    assert [(origin, destination) for origin, _, destination in final.copies] == [("build", "/opt/deltafleet")]
    assert any('".[agent]"' in command for command in build.all("RUN"))


def test_torch_is_in_the_worker_alone() -> None:
    known = by_name(read_dockerfile(DEPLOY / "Dockerfile"))
    with_extra = {name for name, stage in known.items() if any("compression" in command for command in stage.all("RUN"))}
    assert with_extra == {"build-worker"}
    assert [origin for origin, _, _ in known["api"].copies] == ["build-api"]


def test_the_api_image_needs_nothing_of_the_workers_extra() -> None:
    """Its programs start with every package missing that only the worker's image has."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = {extra: {re.split(r"[^a-z0-9_-]", line)[0] for line in extras[extra]} for extra in ("server", "compression")}
    absent = {MODULES.get(name, name) for name in names["compression"] - names["server"]}
    assert {"torch", "onnx", "onnxruntime"} < absent
    program = f"import sys; sys.modules.update(dict.fromkeys({sorted(absent)}))\n" + (
        "import server.app, server.cli, server.commands.serving, model_registry.trust.cli, model_registry.trust.roots"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
