"""The deployment of docker-compose.yml as processes of this machine: the same settings, keys, commands and balancer file.

What Docker would fill in differently here (addresses, folders, secrets) is replaced; nothing is added or left out.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import yaml

from model_registry.storage.s3 import S3Location
from tests.daemons import LOOPBACK, Daemon, DidNotStart, answers, free_port, wait_until
from tests.reference import ROOT

BIN = Path(sys.executable).parent
PATH = f"{BIN}:{os.environ.get('PATH', os.defpath)}:/usr/sbin"
LIFE_S = 900
TOKEN = "an-operator-of-the-tests"
# Generous: the machine may be busy with other tests.
WORK_DEADLINE_S = 240
# Vehicles ask more often than in production, so that a test waits for work and not for a clock.
QUICK = {"DELTAFLEET_POLL_INTERVAL_S": "0.5", "DELTAFLEET_ROLLOUT_TICK_S": "0.2", "DELTAFLEET_WORKER_IDLE_S": "0.3"}


def run(command: list[str | Path], env: dict[str, str] | None = None, *, deadline_s: float = 180) -> str:
    """Run one of our programs to its end; its output. Raises DidNotStart with what it said."""
    arguments = [str(part) for part in command]
    done = subprocess.run(
        arguments,
        env={**os.environ, "PATH": PATH, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=deadline_s,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        raise DidNotStart(f"{' '.join(arguments)}: {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


@dataclass
class BigRegistry:
    """Two API processes, a worker, a balancer, PostgreSQL and an S3 store; ``url`` is the balancer's."""

    folder: Path
    url: str
    bucket: str
    roots: Path
    api: dict[str, Daemon]
    worker: Daemon
    client: httpx2.Client
    vehicles: dict[str, Vehicle] = field(default_factory=dict)

    def ask(self, method: str, path: str, **options: Any) -> Any:
        """An operator's request; the parsed answer. Raises on anything but success."""
        answer = self.client.request(method, path, **options)
        logs = "\n".join(daemon.tail(25) for daemon in self.api.values()) if answer.is_server_error else ""
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text[:500]}\n{logs}"
        return answer.json()

    def publish(self, family: str, version: str, checkpoint: bytes, **recipe: Any) -> dict[str, Any]:
        """Upload, ask for a version, wait until its job and its deltas are done; the version."""
        digest = hashlib.sha256(checkpoint).hexdigest()
        upload = self.ask("POST", "/api/v1/uploads", content=checkpoint)
        assert upload["sha256"] == digest
        request = {"version": version, "upload_id": upload["upload_id"], "recipe": recipe}
        self.ask("POST", f"/api/v1/families/{family}/versions", json=request)
        path = f"/api/v1/families/{family}/versions/{version}"

        def done() -> bool:
            now = self.ask("GET", path)
            return now["state"] != "processing" and not now["deltas_in_the_making"]

        wait_until(done, deadline_s=WORK_DEADLINE_S, what=f"publishing {family} {version}", poll_s=0.4)
        published: dict[str, Any] = self.ask("GET", path)
        assert published["state"] == "published", published
        return published

    def enrol(self, vehicle_id: str, family: str, hardware_id: str) -> Vehicle:
        """A new vehicle, through the balancer, with an agent of its own running."""
        wanted = {"count": 1, "family": family, "auto_accept": True}
        (token,) = self.ask("POST", "/api/v1/enrolment-tokens", json=wanted)["tokens"]
        state = self.folder / vehicle_id
        who = ["--vehicle-id", vehicle_id, "--family", family, "--hardware-id", hardware_id, "--token", token]
        where: list[str | Path] = ["--server", self.url, "--state", state, "--roots", self.roots]
        run([BIN / "deltafleet-agent", "enroll", *who, *where])
        # Nobody drives this car: what ends its probation is the clock.
        settings = state / "config.toml"
        settings.write_text(re.sub(r"(?m)^probation_s = .*$", "probation_s = 0.5", settings.read_text()))
        command: list[str | Path] = [BIN / "deltafleet-agent", "run", "--state", state, "--listen", f"{LOOPBACK}:{free_port()}"]
        vehicle = Vehicle(state, Daemon(vehicle_id, command, log=self.folder / f"{vehicle_id}.log", life_s=LIFE_S))
        self.vehicles[vehicle_id] = vehicle
        return vehicle

    def start_rollout(self, family: str, version: str, waves: list[float]) -> int:
        rollout = self.ask("POST", "/api/v1/rollouts", json={"family": family, "version": version, "waves": waves})
        self.ask("POST", f"/api/v1/rollouts/{rollout['id']}/start")
        return int(rollout["id"])

    def wait_for_rollout(self, rollout_id: int) -> dict[str, Any]:
        """Until it is over, one way or the other."""

        def over() -> bool:
            return self.ask("GET", f"/api/v1/rollouts/{rollout_id}")["state"] not in ("draft", "running")

        wait_until(over, deadline_s=WORK_DEADLINE_S, what=f"rollout {rollout_id}", poll_s=0.4)
        finished: dict[str, Any] = self.ask("GET", f"/api/v1/rollouts/{rollout_id}")
        return finished


@dataclass
class Vehicle:
    """One agent process and its state directory."""

    state: Path
    daemon: Daemon

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(run([BIN / "deltafleet-agent", "status", "--state", self.state, "--json"]))
        return found

    def classify(self, pictures: list[Path]) -> list[list[int]]:
        """The five best classes of each picture, by the installed model."""
        answer = json.loads(run([BIN / "deltafleet-agent", "infer", "--state", self.state, "--json", *pictures]))
        return [[guess["index"] for guess in result["classes"]] for result in answer["results"]]


@contextmanager
def big_registry(folder: Path, database_url: str, store: S3Location) -> Iterator[BigRegistry]:
    """Set everything up in the order of docker-compose.yml, and end it all."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    shares = {name: folder / "keys" / name for name in ("offline", "api", "worker", "roots")}
    run(["sh", ROOT / "deploy" / "share-keys", *shares.values()])
    ports = {name: free_port() for name in ("api-1", "api-2", "balancer")}
    url = f"http://{LOOPBACK}:{ports['balancer']}"

    def settings(name: str, keys: Path) -> dict[str, str]:
        (folder / name).mkdir()
        here = {
            "DELTAFLEET_DATA": str(folder / name),
            "TMPDIR": str(folder / name),
            "DELTAFLEET_DATABASE_URL": database_url,
            "DELTAFLEET_S3_ENDPOINT": str(store.endpoint_url),
            "DELTAFLEET_S3_PUBLIC_ENDPOINT": url,
            "DELTAFLEET_S3_BUCKET": store.bucket,
            "DELTAFLEET_S3_ACCESS_KEY": str(store.access_key_id),
            "DELTAFLEET_S3_SECRET_KEY": str(store.secret_access_key),
            "DELTAFLEET_EXTERNAL_URL": url,
            "DELTAFLEET_OPERATOR_TOKEN": TOKEN,
            "DELTAFLEET_EMBEDDED_WORKER": services[name]["environment"]["DELTAFLEET_EMBEDDED_WORKER"],
        }
        if name != "migrate":
            here["DELTAFLEET_KEYS_DIRECTORY"] = str(keys)
        assert set(here) == set(services[name]["environment"]), "this test runs other settings than docker-compose.yml"
        return {**os.environ, "PATH": PATH, **here, **QUICK}

    run([BIN / "deltafleet", *services["migrate"]["command"]], settings("migrate", shares["api"]))
    with ExitStack() as running:

        def start(name: str, command: list[str | Path], env: dict[str, str]) -> Daemon:
            return running.enter_context(Daemon(name, command, log=folder / f"{name}.log", life_s=LIFE_S, env=env))

        worker = start("worker", [BIN / "deltafleet", "worker"], settings("worker", shares["worker"]))
        api = {}
        for name in ("api-1", "api-2"):
            env = settings(name, shares["api"])
            serve = ["serve", "--data", env["DELTAFLEET_DATA"], "--host", LOOPBACK, "--port", str(ports[name])]
            api[name] = start(name, [BIN / "deltafleet", *serve], env)
        balancer = start("balancer", ["haproxy", "-f", ROOT / "deploy" / "haproxy.cfg"], _balancer_settings(ports, store))
        for name, daemon in api.items():
            daemon.wait_until_ready(lambda name=name: answers(f"http://{LOOPBACK}:{ports[name]}/readyz"), deadline_s=60)  # type: ignore[misc]
        balancer.wait_until_ready(lambda: answers(f"{url}/readyz"))
        with httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30) as client:
            registry = BigRegistry(folder, url, store.bucket, shares["roots"], api, worker, client)
            try:
                yield registry
            finally:
                for vehicle in registry.vehicles.values():
                    vehicle.daemon.stop()


def _balancer_settings(ports: dict[str, int], store: S3Location) -> dict[str, str]:
    return {
        "PATH": PATH,
        "BALANCER_LISTEN": f"{LOOPBACK}:{ports['balancer']}",
        "API_1": f"{LOOPBACK}:{ports['api-1']}",
        "API_2": f"{LOOPBACK}:{ports['api-2']}",
        "S3_ADDRESS": str(store.endpoint_url).removeprefix("http://"),
        "S3_BUCKET": store.bucket,
    }
