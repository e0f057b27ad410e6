"""A vehicle: the agent's extra alone in a fresh environment. No torch, no server; it starts, and it answers.

``pytest tests/deployment/test_vehicle_install.py -s`` prints what it takes on disk and in memory.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client_agent.inference.engine import Engine
from model_registry.compression.pipeline import compress_checkpoint
from model_registry.compression.recipe import Recipe
from model_registry.contract.content import Content
from model_registry.contract.full import encode_full
from model_registry.contract.limits import MIB
from model_registry.contract.preprocessing import Preprocessing
from tests.deployment.dockerfile import read_dockerfile
from tests.deployment.networks import checkpoint, untrained
from tests.reference import ROOT
from tests.services import IN_CI

# Packages are fetched and unpacked.
pytestmark = pytest.mark.timeout(600)

# torch's figures for the same network are 938 MB and 256 MB.
MAX_INSTALLED_BYTES = 250 * MIB
MAX_RESIDENT_BYTES = 130 * MIB
NEVER_ON_A_VEHICLE = {"torch", "onnx", "boto3", "sqlalchemy", "fastapi", "pydantic", "uvicorn", "bsdiff4", "typer"}
IMAGENET = Preprocessing((227, 227), (227, 227), "RGB", (124.0, 116.0, 104.0), (0.017, 0.017, 0.017))

ANSWER = """
import json, sys
from pathlib import Path
from client_agent.inference.engine import Engine
from model_registry.contract.full import decode_full
from model_registry.contract.session import self_test
engine = Engine(decode_full(Path(sys.argv[1]).read_bytes()))
self_test(engine.session)
guesses = engine.classify(Path(sys.argv[2]).read_bytes())
resident = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
print(json.dumps({
    "classes": [guess.index for guess in guesses],
    "scores": [guess.score for guess in guesses],
    "modules": sorted({name.split(".")[0] for name in sys.modules}),
    "resident_bytes": int(resident.split()[1]) * 1024,
}))
"""


@dataclass(frozen=True)
class Vehicle:
    """A virtual environment; ``idle_bytes``: what it held before anything was installed."""

    home: Path
    idle_bytes: int

    @property
    def packages(self) -> Path:
        return next(self.home.glob("lib/python3*/site-packages"))

    def run(self, *arguments: str | Path, deadline_s: float = 60) -> str:
        """Run a program of the environment's ``bin``, from a folder where this repository is not importable."""
        program, *rest = map(str, arguments)
        done = subprocess.run(
            [self.home / "bin" / program, *rest],
            cwd=self.home,
            env={"PATH": os.defpath, "HOME": str(self.home)},
            capture_output=True,
            text=True,
            check=False,
            timeout=deadline_s,
        )
        assert done.returncode == 0, f"{program}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout


def copied(sources: Sequence[str], target: Path) -> Path:
    """Copies of the project's files, so that building does not write into the working tree."""
    for source in sources:
        to = target / source
        to.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, to, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, to)
    return target


def pip(*arguments: str | Path, deadline_s: float = 500) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--no-input", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=deadline_s, stdin=subprocess.DEVNULL)
    if done.returncode and not IN_CI and ("connection" in done.stderr.lower() or "No matching distribution" in done.stderr):
        pytest.skip(f"the package index cannot be reached: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr[-3000:]


def say(line: str) -> None:
    """For those who run this with ``-s``."""
    sys.stdout.write(f"\n{line}\n")


def size_bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole project as a wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    everything = ["pyproject.toml", "README.md", "LICENSE", "client_agent", "model_registry", "server", "migrations"]
    pip("wheel", "--no-deps", "--wheel-dir", folder, copied(everything, folder / "source"))
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def vehicle(wheel: Path) -> Iterator[Vehicle]:
    """An environment into which only the agent's extra was installed, without a compiler's help."""
    with tempfile.TemporaryDirectory(prefix="deltafleet-vehicle-") as folder:
        home = Path(folder)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True, timeout=60)
        idle = size_bytes(home)
        # --no-compile saves a third of the time; bytecode would add some 20 MiB.
        target = ("--python", home / "bin" / "python")
        pip(*target, "install", "--no-compile", "--only-binary", ":all:", f"{wheel}[agent]")
        yield Vehicle(home, idle)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Content:
    """SqueezeNet 1.0 in its full size, compressed; untrained, which changes neither its memory nor its arithmetic."""
    path = tmp_path_factory.mktemp("network") / "network.safetensors"
    path.write_bytes(checkpoint("squeezenet1_0", untrained("squeezenet1_0", 1000, seed=1), 1000, IMAGENET))
    return compress_checkpoint(path, Recipe())


def test_the_agent_starts(vehicle: Vehicle) -> None:
    for command in ([], ["run"], ["enroll"], ["status"]):
        assert "usage" in vehicle.run("deltafleet-agent", *command, "--help").lower()


def test_nothing_of_the_registry_is_installed(vehicle: Vehicle) -> None:
    listed = {path.name.lower() for path in vehicle.packages.iterdir()}
    assert not NEVER_ON_A_VEHICLE & listed
    assert {"client_agent", "model_registry", "onnxruntime"} <= listed


def test_it_answers_as_the_registry_does_within_its_memory(vehicle: Vehicle, network: Content, tmp_path: Path) -> None:
    artifact, picture, program = tmp_path / "network.dfm", tmp_path / "picture.png", tmp_path / "answer.py"
    artifact.write_bytes(encode_full(network))
    pixels = np.random.default_rng(7).integers(0, 256, (227, 227, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(picture)
    program.write_text(ANSWER)

    answer = json.loads(vehicle.run("python", program, artifact, picture))

    expected = Engine(network).classify(picture.read_bytes())
    assert answer["classes"] == [guess.index for guess in expected]
    np.testing.assert_allclose(answer["scores"], [guess.score for guess in expected], rtol=1e-5)
    assert not NEVER_ON_A_VEHICLE & set(answer["modules"])
    say(f"resident after the first answer: {answer['resident_bytes'] / MIB:.0f} MiB")
    assert answer["resident_bytes"] < MAX_RESIDENT_BYTES


def test_it_takes_little_room(vehicle: Vehicle) -> None:
    installed = size_bytes(vehicle.home) - vehicle.idle_bytes
    say(f"installed by the agent's extra: {installed / MIB:.0f} MiB")
    assert installed < MAX_INSTALLED_BYTES


def test_the_agents_image_holds_enough_to_run(vehicle: Vehicle, tmp_path: Path) -> None:
    build = read_dockerfile(ROOT / "deploy" / "Dockerfile.agent")[0]
    sources = [source for origin, names, _ in build.copies if not origin for source in names]
    image = copied(sources, tmp_path / "image")
    program = (
        f"import sys; sys.path.insert(0, {str(image)!r})\n"
        "import client_agent.cli, client_agent.agent, client_agent.inference.service, model_registry.contract.session\n"
        "print(client_agent.__file__, model_registry.__file__)"
    )
    assert vehicle.run("python", "-c", program).count(str(image)) == 2


def test_the_wheel_carries_every_file_that_the_packages_read(wheel: Path) -> None:
    source = wheel.parent / "source"
    with zipfile.ZipFile(wheel) as packed:
        inside = set(packed.namelist())
    for package in ("client_agent", "model_registry", "server", "migrations"):
        files = {str(path.relative_to(source)) for path in (source / package).rglob("*") if path.is_file()}
        assert files <= inside, files - inside
