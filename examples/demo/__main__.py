"""Publish three versions of a road-sign network, enrol eight vehicles, roll versions 2 and 3 out in waves, print the bill.

Every part is the real program in a process of its own: the registry, each vehicle's agent, the command line.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from examples.demo.processes import Processes, StepFailed, wait_until
from examples.demo.report import RolloutRow, broken_promises, print_table
from examples.demo.traffic import Camera, is_answering
from examples.signs.render import samples

FAMILY, HARDWARE = "signs", "camera-ecu"
VERSIONS = ("1.0.0", "2.0.0", "3.0.0")
ARTIFACTS = Path(__file__).parent.parent / "signs" / "artifacts"
VEHICLES = 8
ROLLOUT_TIMEOUT_S = 120.0


class Demo:
    """The story, one step a method, in the order a model travels."""

    def __init__(self, folder: Path, processes: Processes, url: str, console: Console) -> None:
        self.folder, self.processes, self.url, self.console = folder, processes, url, console
        self.vehicle_ids = [f"vehicle-{n}" for n in range(1, VEHICLES + 1)]
        self.cameras: dict[str, Camera] = {}

    def start_registry(self, port: int) -> None:
        data = self.folder / "registry"
        command = ["deltafleet", "serve", "--data", str(data), "--host", "127.0.0.1", "--port", str(port)]
        registry = self.processes.start("registry", command)

        def ready() -> bool:
            if registry.poll() is not None:
                raise StepFailed(f"the registry ended at once; see {self.processes.logs}/registry.log")
            try:
                return bool(httpx2.get(f"{self.url}/readyz", timeout=2).is_success)
            except httpx2.HTTPError:
                return False

        wait_until(ready, what="starting the registry", timeout_s=60)

    def publish(self, version: str) -> None:
        file = str(ARTIFACTS / f"signs-{version}.dfm")
        command = ["deltafleet", "publish", file, "--family", FAMILY, "--version", version, "--hardware-id", HARDWARE]
        self.processes.call_json(f"publish-{version}", [*command, "--server", self.url])

    def enrol(self, vehicle_id: str, token: str) -> None:
        state = self.folder / vehicle_id
        command = ["deltafleet-agent", "enroll", "--server", self.url, "--token", token, "--vehicle-id", vehicle_id]
        roots = str(self.folder / "roots")
        self.processes.call(
            f"enrol-{vehicle_id}",
            [*command, "--family", FAMILY, "--hardware-id", HARDWARE, "--state", str(state), "--roots", roots],
        )
        self.processes.start(vehicle_id, ["deltafleet-agent", "run", "--state", str(state), "--listen", f"unix:{state}/infer"])

    def tokens(self, count: int) -> Iterator[str]:
        self.processes.call(
            "roots", ["deltafleet", "keys", "roots", str(self.folder / "registry" / "keys"), "-o", f"{self.folder}/roots"]
        )
        made = self.processes.call_json(
            "tokens", ["deltafleet", "vehicles", "token", "--family", FAMILY, "--count", str(count), "--server", self.url]
        )
        yield from made["tokens"]

    def drive(self) -> None:
        """Point a camera at every vehicle that has its first model; from then on, each unanswered picture counts as dropped."""
        pictures = samples(24, seed=7)
        for vehicle_id in self.vehicle_ids:
            path = self.folder / vehicle_id / "infer"
            wait_until(lambda path=path: is_answering(path, FAMILY), what=f"{vehicle_id}'s first answer", timeout_s=60)  # type: ignore[misc]
            self.cameras[vehicle_id] = Camera(path, FAMILY, pictures)
            self.cameras[vehicle_id].start()

    def roll_out(self, version: str, waves: str, progress: Progress) -> RolloutRow:
        served, dropped = self.answers()
        task = progress.add_task(f"rolling out {version} in waves of {waves} %", total=VEHICLES)
        cli = ["deltafleet", "rollout"]
        server = ["--server", self.url]
        made = self.processes.call_json(
            f"rollout-{version}", [*cli, "create", "--family", FAMILY, "--version", version, "--waves", waves, *server]
        )
        self.processes.call(f"start-{version}", [*cli, "start", str(made["id"]), *server])
        if not self.cameras:
            self.drive()
        self._follow(made["id"], progress, task)
        bill = self._get(f"/api/v1/rollouts/{made['id']}/bandwidth")
        served_after, dropped_after = self.answers()
        return RolloutRow.from_json(version, bill, served=served_after - served, dropped=dropped_after - dropped)

    def _follow(self, rollout_id: str, progress: Progress, task: object) -> None:
        deadline = time.monotonic() + ROLLOUT_TIMEOUT_S
        while time.monotonic() < deadline:
            rollout = self._get(f"/api/v1/rollouts/{rollout_id}")
            progress.update(task, completed=rollout["succeeded"])  # type: ignore[arg-type]
            if rollout["state"] == "finished":
                return
            if rollout["state"] != "running" or self.processes.ended():
                break
            time.sleep(0.2)
        raise StepFailed(f"rollout {rollout_id} did not finish: {rollout}; ended programs: {self.processes.ended()}")

    def answers(self) -> tuple[int, int]:
        """Inferences served and dropped so far, over all vehicles."""
        return sum(c.served for c in self.cameras.values()), sum(c.dropped for c in self.cameras.values())

    def installed(self) -> dict[str, str]:
        """What every vehicle says it runs."""
        vehicles = self._get("/api/v1/vehicles?limit=100")["items"]
        return {v["id"]: (v["installed"] or {}).get("version", "nothing") for v in vehicles}

    def _get(self, path: str) -> dict:  # type: ignore[type-arg]
        token = (self.folder / "registry" / "operator-token").read_text().strip()
        response = httpx2.get(self.url + path, headers={"Authorization": f"Bearer {token}"}, timeout=10)
        response.raise_for_status()
        return response.json()  # type: ignore[no-any-return]


def tell(demo: Demo, progress: Progress) -> list[RolloutRow]:
    """The whole story; returns the bill."""
    task = progress.add_task("starting the registry", total=1)
    demo.start_registry(int(demo.url.rsplit(":", 1)[1]))
    progress.update(task, completed=1)
    task = progress.add_task("publishing three versions", total=len(VERSIONS))
    for version in VERSIONS:
        demo.publish(version)
        progress.advance(task)
    task = progress.add_task("enrolling vehicles", total=VEHICLES)
    for vehicle_id, token in zip(demo.vehicle_ids, demo.tokens(VEHICLES), strict=True):
        demo.enrol(vehicle_id, token)
        progress.advance(task)
    rows = [demo.roll_out(VERSIONS[0], "100", progress)]
    rows += [demo.roll_out(version, "25,50,100", progress) for version in VERSIONS[1:]]
    return rows


@contextmanager
def _workplace(folder: Path | None) -> Iterator[Path]:
    """A fresh folder that goes away at the end, unless the user named one."""
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="deltafleet-demo-") as temporary:
        yield Path(temporary)


def main() -> int:
    """Tell the story once; returns 0 when every promise was kept."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--keep", action="store_true", help="leave everything running and print the dashboard's address")
    parser.add_argument("--folder", type=Path, help="work here instead of in a temporary folder (emptied first)")
    options = parser.parse_args()
    console = Console()
    # An ending from outside takes the same way out as Ctrl-C: no program is left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with _workplace(options.folder) as folder:
        (folder / "logs").mkdir()
        processes = Processes(
            folder / "logs", {"DELTAFLEET_DATA": str(folder / "registry"), "DELTAFLEET_POLL_INTERVAL_S": "0.5"}
        )
        demo = Demo(folder, processes, f"http://127.0.0.1:{_free_port()}", console)
        try:
            return _run(demo, keep=options.keep)
        except StepFailed as exc:
            console.print(f"[red]{exc}[/red]\nLogs: {folder / 'logs'}")
            return 1
        except KeyboardInterrupt:
            return 130
        finally:
            for camera in demo.cameras.values():
                camera.stop()
            processes.stop_all()


def _run(demo: Demo, *, keep: bool) -> int:
    columns = (TextColumn("{task.description:<40}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=demo.console) as progress:
        rows = tell(demo, progress)
    print_table(demo.console, rows)
    correct = sum(c.correct for c in demo.cameras.values())
    demo.console.print(
        f"{correct:,} of {demo.answers()[0]:,} signs were read correctly; {VEHICLES} vehicles run {VERSIONS[-1]}."
    )
    problems = broken_promises(rows, demo.installed(), VERSIONS[-1])
    for problem in problems:
        demo.console.print(f"[red]{problem}[/red]")
    if keep:
        demo.console.print(f"Dashboard: {demo.url}/dashboard  (Ctrl-C ends the demonstration)")
        demo.processes.wait()
    return 1 if problems else 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
