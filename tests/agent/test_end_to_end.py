"""The real registry in its own process, real agents, one model through the whole path: publish, roll out, swap, report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import urllib3

from client_agent.cli import main as agent_main
from model_registry.contract.content import Content
from model_registry.contract.full import encode_full
from tests.agent.models import FAMILY, HARDWARE, make_content
from tests.agent.test_processes import keep_asking
from tests.agent.vehicles import Vehicle, eventually
from tests.daemons import free_port

BIN = Path(sys.executable).parent


@dataclass
class RealRegistry:
    """``deltafleet serve`` on a directory of its own."""

    url: str
    folder: Path
    process: subprocess.Popen[bytes]

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """One call of the operator API; bytes are sent as they are."""
        token = (self.folder / "data" / "operator-token").read_text().strip()
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        headers = {"Authorization": f"Bearer {token}", "Content-Type": kind}
        answer = urllib3.request(method, f"{self.url}/api/v1/{path}", body=data, headers=headers, timeout=30)
        assert answer.status < 300, answer.data
        return answer.json()

    def publish(self, content: Content) -> None:
        version = content.manifest.version
        self.ask("PUT", f"families/{FAMILY}", {"hardware_id": HARDWARE})
        upload = self.ask("POST", "uploads", encode_full(content))
        made = self.ask(
            "POST", f"families/{FAMILY}/versions", {"version": version, "upload_id": upload["upload_id"], "recipe": {}}
        )
        eventually(lambda: self.ask("GET", f"jobs/{made['job_id']}")["state"] == "succeeded", f"{version} is published", 90)

    def roll_out(self, version: str) -> int:
        made = self.ask("POST", "rollouts", {"family": FAMILY, "version": version, "waves": [100]})
        self.ask("POST", f"rollouts/{made['id']}/start")
        return int(made["id"])

    def is_finished(self, rollout: int) -> bool:
        return bool(self.ask("GET", f"rollouts/{rollout}")["state"] == "finished")

    def wait_for_rollout(self, rollout: int) -> None:
        """A family has one rollout at a time: who starts the next waits for this, not for the vehicle's first answer."""
        eventually(lambda: self.is_finished(rollout), f"rollout {rollout} ends", 60)

    def enrol(self, vehicle: Vehicle) -> Vehicle:
        roots = self.folder / "roots"
        subprocess.run(
            [BIN / "deltafleet", "keys", "roots", self.folder / "data" / "keys", "-o", roots], check=True, timeout=60
        )
        made = self.ask("POST", "enrolment-tokens", {"count": 1, "family": FAMILY, "auto_accept": True})
        who = ["--vehicle-id", vehicle.vehicle_id, "--family", FAMILY, "--hardware-id", HARDWARE]
        where = ["--state", str(vehicle.state), "--roots", str(roots), "--server", self.url]
        assert agent_main(["enroll", *who, *where, "--token", made["tokens"][0]]) == 0
        return vehicle

    def is_ready(self) -> bool:
        assert self.process.poll() is None, (self.folder / "serve.log").read_text()
        try:
            return urllib3.request("GET", f"{self.url}/readyz", timeout=2, retries=False).status == 200
        except urllib3.exceptions.HTTPError:
            return False


@contextmanager
def real_registry(folder: Path, **settings: str) -> Iterator[RealRegistry]:
    port = free_port()
    command = [str(BIN / "deltafleet"), "serve", "--data", str(folder / "data"), "--port", str(port)]
    environment = {**os.environ, "DELTAFLEET_POLL_INTERVAL_S": "0.2", **settings}
    with (
        (folder / "serve.log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log, env=environment) as process,
    ):
        try:
            registry = RealRegistry(f"http://127.0.0.1:{port}", folder, process)
            eventually(registry.is_ready, "the registry is ready", 60)
            yield registry
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.mark.timeout(280)
def test_two_rollouts_reach_a_vehicle_that_never_stops_answering(tmp_path: Path, v1: Content) -> None:
    with real_registry(tmp_path) as registry:
        registry.publish(v1)
        vehicle = registry.enrol(Vehicle(tmp_path / "car-1", None))
        with vehicle.daemon() as daemon:
            first = registry.roll_out("1.0.0")
            # Asked all the while: probation ends after some answers, and without any only after half a minute.
            eventually(lambda: daemon.version() == "1.0.0" and registry.is_finished(first), "the first rollout ends")
            over, answers = threading.Event(), list[tuple[int, str | None]]()
            camera = threading.Thread(target=keep_asking, args=(daemon, over, answers))
            camera.start()
            registry.publish(make_content("2.0.0", change=lambda w: w * 1.5))
            rollout = registry.roll_out("2.0.0")
            registry.wait_for_rollout(rollout)
            over.set()
            camera.join(20)
            assert daemon.terminate() == 0
        assert {status for status, _ in answers} == {200}
        assert {version for _, version in answers} == {"1.0.0", "2.0.0"}
        received = registry.ask("GET", f"rollouts/{rollout}/bandwidth")["received"]
        assert received["delta"] > 0
        assert received["full"] == 0
        assert registry.ask("GET", "vehicles/car-1")["installed"]["version"] == "2.0.0"


@pytest.mark.timeout(280)
def test_a_vehicle_four_releases_behind_comes_by_the_chain_and_its_bytes_are_on_the_dashboard(
    tmp_path: Path, v1: Content
) -> None:
    settings = {"DELTAFLEET_DELTA_BASES": "1", "DELTAFLEET_CHAIN_HOPS": "4"}
    with real_registry(tmp_path, **settings) as registry:
        registry.publish(v1)
        vehicle = registry.enrol(Vehicle(tmp_path / "car-1", None)).configure(max_hops=4, probation_s=0.0)
        with vehicle.daemon() as daemon:
            registry.wait_for_rollout(registry.roll_out("1.0.0"))
            assert daemon.version() == "1.0.0"
            for number in (2, 3, 4, 5):
                registry.publish(make_content(f"{number}.0.0", change=partial(np.multiply, 1 + number / 10)))
            eventually(lambda: len(deltas(registry)) == 4, "a delta from each release to the next", 60)
            rollout = registry.roll_out("5.0.0")
            registry.wait_for_rollout(rollout)
            assert daemon.version() == "5.0.0"
            assert daemon.terminate() == 0
        received = registry.ask("GET", f"rollouts/{rollout}/bandwidth")["received"]
        assert received["delta"] == sum(edge["bytes"] for edge in deltas(registry))
        assert received["full"] == 0
        page = urllib3.request("GET", f"{registry.url}/dashboard/rollouts/{rollout}", timeout=30).data.decode()
        assert f'value="{received["delta"]}"' in page
        assert registry.ask("GET", "vehicles/car-1")["installed"]["version"] == "5.0.0"


@pytest.mark.timeout(280)
def test_a_version_that_left_signed_metadata_is_rolled_out_again(tmp_path: Path, v1: Content) -> None:
    with real_registry(tmp_path, DELTAFLEET_REFRESH_INTERVAL_S="0.5") as registry:
        registry.publish(v1)
        first = registry.enrol(Vehicle(tmp_path / "car-1", None)).configure(probation_s=0.0)
        with first.daemon() as daemon:
            registry.wait_for_rollout(registry.roll_out("1.0.0"))
            registry.publish(make_content("2.0.0", change=lambda w: w * 1.5))
            registry.wait_for_rollout(registry.roll_out("2.0.0"))
            eventually(lambda: listed(registry) == {"2.0.0"}, "the version that nobody is to run has left", 60)
            assert daemon.version() == "2.0.0"
            assert daemon.terminate() == 0
        second = registry.enrol(Vehicle(tmp_path / "car-2", None, vehicle_id="car-2")).configure(probation_s=0.0)
        with second.daemon() as daemon:
            registry.wait_for_rollout(registry.roll_out("1.0.0"))
            assert daemon.version() == "1.0.0"
            assert daemon.terminate() == 0
        assert registry.ask("GET", "vehicles/car-1")["installed"]["version"] == "2.0.0"


def listed(registry: RealRegistry) -> set[str]:
    """Versions that signed metadata names."""
    versions = registry.ask("GET", f"families/{FAMILY}/versions")["items"]
    return {version["version"] for version in versions if version["listed"]}


def deltas(registry: RealRegistry) -> list[dict[str, Any]]:
    """Those that vehicles can take."""
    edges = registry.ask("GET", f"families/{FAMILY}/graph")["edges"]
    return [edge for edge in edges if edge["base"] and edge["state"] == "published"]
