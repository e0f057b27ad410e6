"""The program ``deltafleet`` against a registry that it started itself, and the registry without torch."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.daemons import free_port, wait_until
from tests.server.models import onnx_file

PROGRAM = [sys.executable, "-c", "from server.cli import main; main()"]
QUICK = {"DELTAFLEET_ROLLOUT_TICK_S": "0.1", "DELTAFLEET_WORKER_IDLE_S": "0.1", "DELTAFLEET_CACHE_POLL_S": "0.1"}
LIFE_S = 240


@dataclass
class Program:
    """Runs commands against one registry."""

    url: str
    data: Path

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        named = {"DELTAFLEET_SERVER": self.url, "DELTAFLEET_DATA": str(self.data)}
        env = os.environ | named | environment
        return subprocess.run([*PROGRAM, *arguments], env=env, capture_output=True, text=True, timeout=120, check=False)

    def ok(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def json(self, *arguments: str) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.ok(*arguments, "--json"))
        return value

    def refused(self, *arguments: str, **environment: str) -> str:
        """The one line with which a command ends in 1."""
        done = self.run(*arguments, **environment)
        assert done.returncode == 1, (done.stdout, done.stderr)
        assert done.stderr.count("\n") == 1, done.stderr
        assert done.stderr.startswith("deltafleet: ")
        return done.stderr


@contextmanager
def serving(data: Path, program: list[str] = PROGRAM, **environment: str) -> Iterator[tuple[Program, list[str]]]:
    """`deltafleet serve` on a free port, and what it printed; ended by its own id, or in any case after a while."""
    command = [*program, "serve", "--data", str(data), "--port", "0"]
    log = data.parent / "serve.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, env=os.environ | QUICK | environment, stdout=subprocess.PIPE, stderr=errors, text=True
        )
    timer = threading.Timer(LIFE_S, process.kill)
    timer.start()
    try:
        assert process.stdout
        lines = [process.stdout.readline() for _ in range(3)]
        found = re.search(r"http://127\.0\.0\.1:\d+", lines[0])
        assert found, (lines, log.read_text())
        yield Program(found[0], data), lines
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, log.read_text()
    finally:
        timer.cancel()
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    data = tmp_path_factory.mktemp("registry") / "data"
    with serving(data) as (running, lines):
        assert f"{running.url}/dashboard" in lines[0]
        assert str(data / "operator-token") in lines[1]
        assert "deltafleet publish" in lines[2]
        yield running


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.onnx"
    path.write_bytes(onnx_file(1))
    return path


def test_secrets_are_readable_by_their_owner_alone(program: Program) -> None:
    for secret in (program.data / "operator-token", *(program.data / "keys").glob("*.pem")):
        assert secret.stat().st_mode & 0o077 == 0, secret


def test_a_model_is_published_and_published_again(program: Program, model: Path) -> None:
    arguments = ["publish", str(model), "--family", "once", "--version", "1.0.0"]
    first = program.json(*arguments)
    assert (first["state"], first["float32_bytes"]) == ("published", 4 * (16 * 48 + 48 * 4))
    assert program.json(*arguments) == first
    assert "published once 1.0.0" in program.ok(*arguments)


def test_the_next_version_comes_with_its_delta(program: Program, model: Path, tmp_path: Path) -> None:
    program.json("publish", str(model), "--family", "next", "--version", "1.0.0", "--hardware-id", "ecu-1")
    changed = tmp_path / "changed.onnx"
    changed.write_bytes(onnx_file(1, nudge=0.01))
    second = program.json("publish", str(changed), "--family", "next", "--version", "2.0.0")
    assert [delta["base_version"] for delta in second["deltas"]] == ["1.0.0"]
    assert second["deltas_in_the_making"] == 0


def test_the_delta_graph_is_shown_and_its_deltas_are_retired(program: Program, model: Path, tmp_path: Path) -> None:
    files = [model]
    for n in (1, 2):
        files.append(tmp_path / f"{n}.onnx")
        files[n].write_bytes(onnx_file(1, nudge=0.01 * n))
    for n, file in enumerate(files, start=1):
        program.json("publish", str(file), "--family", "graph", "--version", f"{n}.0.0")
    assert "of the update" in program.ok("publish", str(files[2]), "--family", "graph", "--version", "3.0.0")
    edges = program.json("deltas", "list", "--family", "graph")["items"]
    deltas = {(e["base"], e["version"]): e for e in edges if e["base"]}
    assert set(deltas) == {("1.0.0", "2.0.0"), ("2.0.0", "3.0.0")}
    assert all(e["lost"] is not None and e["bytes"] > 0 for e in deltas.values())
    plan = program.json("deltas", "plan", "--family", "graph")
    assert plan["target"] == "3.0.0"
    assert plan["to_retire"] == [{"base": "1.0.0", "version": "2.0.0", "because": "unused"}]
    assert "to retire: 1.0.0 to 2.0.0 (unused)" in program.ok("deltas", "plan", "--family", "graph")
    assert "2.0.0" in program.ok("deltas", "list", "--family", "graph")
    assert "1.0.0 to 2.0.0 is retiring (unused)" in program.ok("deltas", "retire", "--family", "graph")
    assert "every delta of graph is needed" in program.ok("deltas", "retire", "--family", "graph")
    named = ("--family", "graph", "--base", "2.0.0", "--version", "3.0.0")
    assert program.json("deltas", "retire", *named)["items"][0]["because"] == "operator"

    def gone() -> bool:
        states = {e["state"] for e in program.json("deltas", "list", "--family", "graph")["items"] if e["base"]}
        return states == {"retired"}

    wait_until(gone, deadline_s=30, what="the worker's withdrawal", poll_s=0.5)
    assert "no delta from 1.0.0 to 9.9.9" in program.refused(
        "deltas", "retire", "--family", "graph", "--base", "1.0.0", "--version", "9.9.9"
    )
    assert "is not a version" in program.refused("deltas", "retire", "--family", "graph", "--base", "..", "--version", "1.0.0")
    assert program.run("deltas", "retire", "--family", "graph", "--base", "1.0.0").returncode == 2


def test_publishing_without_waiting_tells_the_job(program: Program, model: Path) -> None:
    made = program.json("publish", str(model), "--family", "nowait", "--version", "1.0.0", "--no-wait")
    assert made["job_id"] >= 1


def test_a_model_that_cannot_be_published_says_why(program: Program, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(onnx_file(1)[:700])
    assert "failed" in program.refused("publish", str(broken), "--family", "bad", "--version", "1.0.0")
    text = tmp_path / "model.dfm"
    text.write_text("hello")
    assert "no .dfm" in program.refused("publish", str(text), "--family", "bad", "--version", "1.0.1")
    missing = program.run("publish", str(tmp_path / "none.dfm"), "--family", "bad", "--version", "1.0.0")
    assert missing.returncode == 2
    for setting in ("--preprocess", "--labels"):
        absent = program.refused("publish", str(text), "--family", "bad", "--version", "1.0.0", setting, str(tmp_path / "no"))
        assert "cannot be read" in absent


def test_names_that_no_address_can_hold_are_told(program: Program, model: Path) -> None:
    for family in ("Signs", "a b/..", "знаки"):
        assert "not a family's name" in program.refused("publish", str(model), "--family", family, "--version", "1.0.0")
    assert "not a vehicle's name" in program.refused("vehicles", "show", "a b/c")


def test_a_rollout_is_told_what_to_do(program: Program, model: Path) -> None:
    program.json("publish", str(model), "--family", "roll", "--version", "1.0.0")
    made = program.json("rollout", "create", "--family", "roll", "--version", "1.0.0", "--waves", "10,100")
    number = str(made["id"])
    assert [w["percent"] for w in made["waves"]] == [10, 100]
    assert "no accepted vehicle" in program.refused("rollout", "start", number)
    assert "cannot pause" in program.refused("rollout", "pause", number)
    assert "roll" in program.ok("rollout", "list")
    assert program.json("rollout", "abort", number)["state"] == "aborted"
    shown = program.json("rollout", "show", number)
    assert shown["bandwidth"]["received"] == {"metadata": 0, "delta": 0, "full": 0}
    for waves in ("a,b", "nan,100", "10,inf"):
        assert program.run("rollout", "create", "--family", "roll", "--version", "1.0.0", "--waves", waves).returncode == 2


def test_a_plan_that_cannot_start_yet_is_named(program: Program, model: Path) -> None:
    program.json("publish", str(model), "--family", "plan", "--version", "1.0.0")
    why = program.refused("rollout", "create", "--family", "plan", "--version", "1.0.0", "--start")
    (kept,) = program.json("rollout", "list", "--family", "plan")["items"]
    assert kept["state"] == "draft"
    assert f"deltafleet rollout start {kept['id']}" in why


def test_vehicles_are_let_in_by_token(program: Program, model: Path) -> None:
    program.json("publish", str(model), "--family", "fleet", "--version", "1.0.0", "--no-wait")
    tokens = program.json("vehicles", "token", "--family", "fleet", "--count", "3")["tokens"]
    assert len(set(tokens)) == 3
    assert "no family nope" in program.refused("vehicles", "token", "--family", "nope")
    assert program.json("vehicles", "list", "--family", "fleet") == {"items": []}
    assert "no vehicle car-9" in program.refused("vehicles", "accept", "car-9")


def test_a_wrong_or_missing_token_is_told(program: Program, tmp_path: Path) -> None:
    assert "token is wrong" in program.refused("rollout", "list", "--token", "guess")
    assert "token is needed" in program.refused("rollout", "list", DELTAFLEET_DATA=str(tmp_path))


def test_an_unreachable_registry_is_told(program: Program) -> None:
    assert "does not answer" in program.refused("rollout", "list", "--server", f"http://127.0.0.1:{free_port()}")
    assert "is not an address" in program.refused("rollout", "list", "--server", "nonsense")


def test_a_port_that_is_taken_is_told(program: Program, tmp_path: Path) -> None:
    port = program.url.rpartition(":")[2]
    assert "cannot listen" in program.refused("serve", "--data", str(tmp_path / "other"), "--port", port)


def test_settings_that_make_no_sense_are_told(program: Program, tmp_path: Path) -> None:
    wrong = program.refused("serve", "--data", str(tmp_path / "x"), DELTAFLEET_POLL_INTERVAL_S="soon")
    assert "poll_interval_s" in wrong
    assert "does not exist" in program.refused("migrate", DELTAFLEET_SETTINGS=str(tmp_path / "none.toml"))
    assert not (tmp_path / "x").exists()


def test_a_data_folder_that_cannot_be_used_is_told(program: Program, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert "Not a directory" in program.refused("serve", "--data", str(tmp_path / "file" / "data"), "--port", "0")
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "deltafleet.db").write_text("not a database\n" * 100)
    assert "deltafleet.db cannot be used" in program.refused("serve", "--data", str(damaged), "--port", "0")


@pytest.mark.parametrize("url", ["nonsense", "oracle+nothing://user:secret@host/name"])
def test_a_database_address_that_means_nothing_is_told_without_its_password(program: Program, tmp_path: Path, url: str) -> None:
    told = program.refused("serve", "--data", str(tmp_path / "x"), "--port", "0", DELTAFLEET_DATABASE_URL=url)
    assert "database_url" in told
    assert "secret" not in told


def test_a_database_that_does_not_answer_is_told(program: Program, tmp_path: Path) -> None:
    url = f"postgresql+psycopg://user:secret@127.0.0.1:{free_port()}/name"
    told = program.refused("serve", "--data", str(tmp_path / "x"), "--port", "0", DELTAFLEET_DATABASE_URL=url)
    assert "is it running" in told
    assert "secret" not in told


def test_settings_may_come_from_a_file(program: Program, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(f'database_url = "sqlite:///{tmp_path / "from-file.db"}"\n')
    assert program.run("migrate", DELTAFLEET_SETTINGS=str(file)).returncode == 0
    assert (tmp_path / "from-file.db").exists()


def test_a_worker_on_a_database_without_tables_says_what_to_do(program: Program, tmp_path: Path) -> None:
    wrong = program.refused("worker", DELTAFLEET_DATABASE_URL=f"sqlite:///{tmp_path / 'empty.db'}")
    assert "deltafleet migrate" in wrong


WITHOUT_ENGINES = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "onnx", "onnxruntime", "PIL", "safetensors"}:
            raise ModuleNotFoundError(f"no {name} here", name=name)
sys.meta_path.insert(0, Absent())
from server.cli import main
main()
"""


def test_the_api_works_where_no_engine_is_installed(tmp_path: Path, model: Path) -> None:
    data = tmp_path / "data"
    program = [sys.executable, "-c", WITHOUT_ENGINES]
    with serving(data, program, DELTAFLEET_EMBEDDED_WORKER="false") as (running, _):
        made = running.json("publish", str(model), "--family", "light", "--version", "1.0.0", "--no-wait")
        assert made["state"] == "processing"
        with worker_of(data):
            running.json("publish", str(model), "--family", "light", "--version", "1.0.0")


@contextmanager
def worker_of(data: Path) -> Iterator[None]:
    """`deltafleet worker`, ended by its own id."""
    with (data.parent / "worker.log").open("wb") as log:
        worker = subprocess.Popen([*PROGRAM, "worker", "--data", str(data)], env=os.environ | QUICK, stderr=log)
    try:
        yield
        worker.terminate()
        assert worker.wait(30) == 0
    finally:
        worker.kill()
        worker.wait()
