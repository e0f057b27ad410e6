"""The agent as a process: it answers at once, drains at the end, shares nothing, and survives a full disk."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import threading
from pathlib import Path

import pytest

from client_agent.cli import main
from client_agent.lock import DirectoryInUse, is_locked, locked
from client_agent.slots import Mark
from client_agent.stop import StopSignal
from client_agent.transport import TlsSettings
from model_registry.contract.content import Content
from model_registry.contract.messages import DeploymentState
from tests.agent.models import FAMILY, LABELS, make_content, picture
from tests.agent.registry import TOKEN, FakeRegistry
from tests.agent.vehicles import Daemon, UnixConnection, Vehicle, eventually
from tests.web import Answer, Request


def test_the_installed_model_answers_before_any_network(registry: FakeRegistry, vehicle: Vehicle, v1: Content) -> None:
    registry.fault = lambda _: Answer(503)
    with vehicle.install(v1, 1).daemon() as daemon:
        eventually(lambda: daemon.version() == "1.0.0", "an answer")
        assert daemon.terminate() == 0


def test_a_vehicle_that_lost_its_key_and_its_certificates_still_answers(vehicle: Vehicle, v1: Content) -> None:
    vehicle.install(v1, 1).configure(tls=TlsSettings(ca_file=vehicle.state / "gone.pem"))
    (vehicle.state / "vehicle-key.pem").write_bytes(b"damaged")
    with vehicle.daemon() as daemon:
        eventually(lambda: daemon.version() == "1.0.0", "an answer")
        eventually(lambda: "no vehicle key" in vehicle.log(), "the trouble is named")
        assert daemon.version() == "1.0.0"
        assert daemon.terminate() == 0


def test_updates_pass_under_load_and_nothing_is_dropped(registry: FakeRegistry, vehicle: Vehicle, v1: Content) -> None:
    """Two updates while four clients ask without a pause; every question gets an answer."""
    registry.publish(v1, 1)
    for counter, version in ((2, "2.0.0"), (3, "3.0.0")):
        registry.publish(make_content(version, change=lambda w, by=counter: w * by), counter)  # type: ignore[misc]
    deltas = [registry.publish_delta("1.0.0", "2.0.0"), registry.publish_delta("2.0.0", "3.0.0")]
    vehicle.install(v1, 1).configure(probation_s=30.0, probation_answers=20)
    with vehicle.daemon() as daemon:
        eventually(lambda: daemon.version() == "1.0.0", "an answer")
        over, answers = threading.Event(), list[tuple[int, str | None]]()
        clients = [threading.Thread(target=keep_asking, args=(daemon, over, answers)) for _ in range(4)]
        for client in clients:
            client.start()
        for number, (version, delta) in enumerate(zip(("2.0.0", "3.0.0"), deltas, strict=True)):
            registry.assign("car-1", version, f"d{number}", hops=[delta])
            eventually(lambda n=number: succeeded(registry, f"d{n}"), version, 40)  # type: ignore[misc]
        over.set()
        for client in clients:
            client.join(20)
        assert daemon.terminate() == 0
    assert {status for status, _ in answers} == {200}
    assert {version for _, version in answers} == {"1.0.0", "2.0.0", "3.0.0"}
    counters = json.loads((vehicle.state / "counters.json").read_text())
    assert counters["failed"] == 0
    assert counters["served"] >= len(answers)


def keep_asking(daemon: Daemon, over: threading.Event, answers: list[tuple[int, str | None]]) -> None:
    connection = UnixConnection(daemon.socket_path)
    question = picture()
    while not over.is_set():
        connection.request("POST", f"/v2/models/{FAMILY}/classify", question)
        response = connection.getresponse()
        answer = json.loads(response.read())
        answers.append((response.status, answer.get("model_version")))
        # Leave the cores to those who work.
        over.wait(0.005)
    connection.close()


def succeeded(registry: FakeRegistry, deployment: str) -> bool:
    report = registry.last_report(deployment)
    return report is not None and report.state is DeploymentState.SUCCEEDED


def test_two_agents_never_share_a_state_directory(registry: FakeRegistry, vehicle: Vehicle) -> None:
    with vehicle.daemon():
        eventually(lambda: is_locked(vehicle.state), "the first agent holds the directory")
        second = vehicle.command("check")
        assert second.returncode == 1
        assert "another agent" in second.stderr
        assert "Traceback" not in second.stderr


def test_a_killed_agent_leaves_no_lock(vehicle: Vehicle) -> None:
    with vehicle.daemon() as daemon:
        eventually(lambda: is_locked(vehicle.state), "locked")
        daemon.process.kill()
        daemon.process.wait(10)
    with locked(vehicle.state), pytest.raises(DirectoryInUse), locked(vehicle.state):
        pass


def test_a_terminated_agent_takes_the_download_up_again(registry: FakeRegistry, vehicle: Vehicle) -> None:
    item = registry.publish(make_content("1.0.0", hidden=100), 1)
    registry.assign("car-1", "1.0.0")
    asked, go_on = threading.Event(), threading.Event()

    def stall(request: Request) -> Answer | None:
        if request.path.endswith(".dfm") and not go_on.is_set():
            asked.set()
            return Answer(body=item.artifact, cut_after=100_000)
        return None

    registry.fault = stall
    with vehicle.daemon() as daemon:
        assert asked.wait(20)
        assert daemon.terminate() == 0
    go_on.set()
    with vehicle.daemon() as daemon:
        eventually(lambda: daemon.version() == "1.0.0", "installed")
        eventually(lambda: succeeded(registry, "d1"), "reported")
    first, *rest = [r.headers.get("range") for r in registry.fetched(".dfm")]
    assert first is None
    assert rest
    assert all(rest), "it went on where it had ended"


def limit_file_size(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize("limit", [20_000, 200_000])
def test_a_disk_that_takes_no_more_keeps_the_old_model_and_recovers(
    registry: FakeRegistry, vehicle: Vehicle, v1: Content, limit: int
) -> None:
    """The file size limit stands in for a full disk: first the download, then the content does not fit."""
    registry.publish(make_content("2.0.0", hidden=100), 2)
    registry.assign("car-1", "2.0.0", "d2")
    vehicle.install(v1, 1)
    tight = vehicle.command("check", "--json", preexec_fn=lambda: limit_file_size(limit))
    assert tight.returncode == 1
    assert json.loads(tight.stdout)["installed"]["version"] == "1.0.0"
    report = registry.last_report("d2")
    assert report is not None
    assert report.state is DeploymentState.FAILED
    assert report.code in ("not_enough_space", "artifact_refused")
    registry.assign("car-1", "2.0.0", "d3")
    assert vehicle.command("check").returncode == 0
    assert vehicle.running is not None
    assert (vehicle.running.version, vehicle.running.mark) == ("2.0.0", Mark.GOOD)


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system can only be mounted by root")
def test_a_full_file_system_keeps_the_old_model_and_recovers(registry: FakeRegistry, tmp_path: Path, v1: Content) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip("a small file system cannot be mounted here")
    try:
        vehicle = Vehicle(small / "car", registry, "car-2").enrol().install(v1, 1)
        registry.publish(make_content("2.0.0", hidden=100), 2)
        filler = small / "filler"
        filler.write_bytes(bytes(700_000))
        registry.assign("car-2", "2.0.0", "d2")
        assert vehicle.command("check").returncode == 1
        report = registry.last_report("d2")
        assert report is not None
        assert report.code == "not_enough_space"
        status = json.loads(vehicle.command("status", "--json").stdout)
        assert status["installed"]["version"] == "1.0.0"
        filler.unlink()
        subprocess.run(["mount", "-o", "remount,size=16m", str(small)], check=True)
        registry.assign("car-2", "2.0.0", "d3")
        assert vehicle.command("check").returncode == 0
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_disk_that_refuses_every_write_stops_updates_and_not_answers(
    registry: FakeRegistry, vehicle: Vehicle, v1: Content, caplog: pytest.LogCaptureFixture
) -> None:
    stop = StopSignal()
    agent = vehicle.install(v1, 1).boot(stop=stop)
    # A directory where the journal's temporary file goes: no write of the journal succeeds.
    (vehicle.state / ".journal.json.new").mkdir()
    updates = threading.Thread(target=agent.run)
    updates.start()
    eventually(lambda: "the disk refuses" in caplog.text, "the disk is noticed")
    assert agent.live.classify(picture(), 1)[0].manifest.version == "1.0.0"
    stop.set()
    updates.join(10)
    assert not updates.is_alive()
    (vehicle.state / ".journal.json.new").rmdir()
    registry.publish(make_content("2.0.0", seed=2), 2)
    registry.assign("car-1", "2.0.0", "d2")
    vehicle.check()
    assert succeeded(registry, "d2")


def test_infer_works_offline(vehicle: Vehicle, v1: Content, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(1))
    (tmp_path / "b.png").write_bytes(b"no picture")
    done = vehicle.install(v1, 1).command("infer", "--json", "--top", "2", str(tmp_path / "a.png"))
    assert done.returncode == 0
    answer = json.loads(done.stdout)
    assert (answer["version"], len(answer["results"][0]["classes"])) == ("1.0.0", 2)
    assert answer["results"][0]["classes"][0]["label"] in LABELS
    mixed = vehicle.command("infer", str(tmp_path / "b.png"), str(tmp_path / "a.png"))
    assert mixed.returncode == 1
    assert "not a picture" in mixed.stdout
    assert any(label in mixed.stdout for label in LABELS)


def test_status_needs_no_network_and_tells_the_last_trouble(
    registry: FakeRegistry, vehicle: Vehicle, v1: Content, capsys: pytest.CaptureFixture[str]
) -> None:
    registry.fault = lambda _: Answer(503)
    assert main(["check", "--state", str(vehicle.install(v1, 1).state)]) == 1
    capsys.readouterr()
    assert main(["status", "--state", str(vehicle.state), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["installed"]["version"] == "1.0.0"
    assert status["failure"]["code"] == "unreachable"
    assert status["agent_running"] is False
    assert main(["status", "--state", str(vehicle.state)]) == 0
    assert "1.0.0 (good" in capsys.readouterr().out


def test_an_enrolment_can_be_repeated_and_a_directory_serves_one_vehicle(
    registry: FakeRegistry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    roots = registry.write_roots(tmp_path / "roots")

    def enrol(vehicle_id: str, token: str) -> int:
        names = ["--vehicle-id", vehicle_id, "--family", FAMILY, "--hardware-id", "ecu-1", "--roots", str(roots)]
        return main(["enroll", "--state", str(tmp_path / "s"), "--server", registry.url, "--token", token, *names])

    assert enrol("car-9", "wrong") == 1
    assert "the token is not valid" in capsys.readouterr().err
    assert enrol("car-9", TOKEN) == 0
    key = (tmp_path / "s" / "vehicle-key.pem").read_bytes()
    assert enrol("car-9", TOKEN) == 0
    assert (tmp_path / "s" / "vehicle-key.pem").read_bytes() == key
    assert enrol("car-10", TOKEN) == 1
    assert "another vehicle" in capsys.readouterr().err
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o700


def test_a_refused_enrolment_changes_nothing_for_the_vehicle(
    registry: FakeRegistry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state, roots = tmp_path / "s", registry.write_roots(tmp_path / "roots")
    other = tmp_path / "other"
    other.mkdir()
    for name in ("image-root.json", "director-root.json"):
        (other / name).write_text("{}")

    def enrol(vehicle_id: str, token: str, roots: Path = roots, server: str = registry.url) -> int:
        names = ["--vehicle-id", vehicle_id, "--family", FAMILY, "--hardware-id", "ecu-1", "--roots", str(roots)]
        return main(["enroll", "--state", str(state), "--server", server, "--token", token, *names])

    assert enrol("car-misspelt", "wrong") == 1
    assert enrol("car-9", TOKEN) == 0
    enrolled = {path: path.read_bytes() for path in (state / "config.toml", *state.rglob("*-root.json"))}
    assert len(enrolled) == 3
    assert enrol("car-9", "wrong", other) == 1
    assert enrol("car-9", TOKEN, other, "http://127.0.0.1:9") == 1
    assert {path: path.read_bytes() for path in enrolled} == enrolled
    capsys.readouterr()


NO_CLASSES = ["infer", "--state", "x", "--top", "0", "a.png"]


@pytest.mark.parametrize("arguments", [[], ["fly"], ["run"], ["enroll", "--state", "x"], ["infer", "--state", "x"], NO_CLASSES])
def test_wrong_usage_is_exit_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


@pytest.mark.parametrize("command", ["run", "check", "status", "infer"])
def test_a_directory_that_was_never_enrolled_is_a_clear_refusal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    pictures = ["a.png"] if command == "infer" else []
    assert main([command, "--state", str(tmp_path), *pictures]) == 1
    assert "deltafleet-agent enroll" in capsys.readouterr().err


WRONG_SETTINGS = [
    "x",
    "server = 1",
    'server = "https://a"',
    'server = "https://a"; vehicle_id = "../../x"; family = "f"; hardware_id = "h"',
    'server = "file:///etc"; vehicle_id = "x"; family = "f"; hardware_id = "h"',
    'server = "https://a"; vehicle_id = "x"; family = "f"; hardware_id = "h"; surprise = 1',
]


@pytest.mark.parametrize("settings", WRONG_SETTINGS)
def test_wrong_settings_are_a_clear_refusal(tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: str) -> None:
    (tmp_path / "config.toml").write_text(settings.replace("; ", "\n"))
    assert main(["status", "--state", str(tmp_path)]) == 1
    assert "Traceback" not in capsys.readouterr().err
