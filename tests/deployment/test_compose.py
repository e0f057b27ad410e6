"""docker-compose.yml, read as Docker would: what it names exists, what must be pinned is, secrets stay where they belong."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from server.settings import Settings
from tests.reference import ROOT
from tests.services import require_programs

ONE_SHOTS = {"keys", "migrate", "vehicle-enrolment"}
OURS = {"keys", "migrate", "api-1", "api-2", "worker", "vehicle", "vehicle-enrolment"}
BUILT = {"deltafleet-api", "deltafleet-worker", "deltafleet-agent"}
# Whose health nobody can ask over the network.
WITHOUT_PORT = {"worker", "vehicle"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = compose["services"]
    return found


def test_every_part_of_the_big_deployment_is_there(services: dict[str, Any]) -> None:
    assert set(services) == {"postgres", "s3", "balancer"} | OURS


def test_foreign_images_are_pinned(services: dict[str, Any]) -> None:
    for name in set(services) - OURS:
        _, _, tag = services[name]["image"].partition(":")
        assert re.match(r"\d+\.\d+", tag), f"{name}: {services[name]['image']} may change under our feet"


def test_own_images_are_built_from_files_that_exist(services: dict[str, Any]) -> None:
    for name in OURS:
        build = services[name]["build"]
        assert services[name]["image"] in BUILT
        dockerfile = (ROOT / build["context"] / build["dockerfile"]).read_text()
        if "target" in build:
            assert f" AS {build['target']}\n" in dockerfile


def test_one_image_is_built_one_way(services: dict[str, Any]) -> None:
    ways = {(services[name]["image"], yaml.dump(services[name]["build"])) for name in OURS}
    assert len(ways) == len(BUILT)


def test_every_setting_exists(services: dict[str, Any]) -> None:
    for name in OURS:
        for variable in services[name].get("environment", {}):
            if variable.startswith("DELTAFLEET_"):
                assert variable.removeprefix("DELTAFLEET_").lower() in Settings.model_fields, f"{name}: {variable}"


def test_the_settings_are_accepted(services: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("migrate", "api-1", "api-2", "worker"):
        for variable, value in services[name]["environment"].items():
            monkeypatch.setenv(variable, interpolated(value))
        settings = Settings()
        assert settings.sqlalchemy_url == "postgresql+psycopg://deltafleet:secret@postgres:5432/deltafleet"
        assert settings.s3_bucket == services["balancer"]["environment"]["S3_BUCKET"]
        assert not settings.embedded_worker


def interpolated(value: str, **known: str) -> str:
    """A value as Docker fills it in, every variable being ``secret`` unless known."""
    return re.sub(r"\$\{(\w+)[^}]*\}", lambda match: known.get(match[1], "secret"), value)


def test_every_variable_is_in_the_example_and_secrets_have_no_default(compose: dict[str, Any]) -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    used = set(re.findall(r"\$\{(\w+)", text))
    lines = [line for line in (ROOT / "deploy" / "env.example").read_text().splitlines() if line and not line.startswith("#")]
    offered = dict(line.split("=", 1) for line in lines)
    assert used == set(offered)
    assert {name for name, value in offered.items() if value} == {"EXTERNAL_URL"}
    required = set(re.findall(r"\$\{(\w+):\?", text))
    assert required == used - {"ENROLMENT_TOKEN"}


def test_named_volumes_and_mounted_files_exist(compose: dict[str, Any], services: dict[str, Any]) -> None:
    used = set()
    for service in services.values():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            if source.startswith("."):
                assert (ROOT / source).is_file(), source
            else:
                used.add(source)
    assert used == set(compose["volumes"])


def test_dependencies_are_waited_for(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for other, terms in service.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if other in ONE_SHOTS else "service_healthy"
            assert terms["condition"] == wanted, f"{name} after {other}"


def test_whatever_serves_is_watched(services: dict[str, Any]) -> None:
    for name in set(services) - ONE_SHOTS - WITHOUT_PORT:
        test = services[name]["healthcheck"]["test"]
        assert test[0] in ("CMD", "CMD-SHELL")
    for name in ONE_SHOTS:
        assert services[name]["restart"] == "no"


def test_only_the_balancer_is_reachable_from_outside(services: dict[str, Any]) -> None:
    assert {name for name, service in services.items() if "ports" in service} == {"balancer"}


def test_the_balancer_knows_both_processes_by_their_names_and_ports(services: dict[str, Any]) -> None:
    parameters = services["balancer"]["environment"]
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    assert {parameters["API_1"], parameters["API_2"]} == {"api-1:8000", "api-2:8000"}
    assert "EXPOSE 8000" in dockerfile
    assert '"--port", "8000"' in dockerfile
    assert services["api-1"]["environment"]["DELTAFLEET_S3_ENDPOINT"] == f"http://{parameters['S3_ADDRESS']}"
    assert services["balancer"]["ports"] == [f"8080{parameters['BALANCER_LISTEN']}"]
    assert f"-bucket={parameters['S3_BUCKET']}" in services["s3"]["command"]


def test_release_keys_are_where_no_request_comes_in(services: dict[str, Any]) -> None:
    mounts = {name: {m.split(":")[0] for m in service.get("volumes", [])} for name, service in services.items()}
    assert {name for name in mounts if "keys-offline" in mounts[name]} == {"keys"}
    assert {name for name in mounts if "keys-worker" in mounts[name]} == {"keys", "worker"}
    assert {name for name in mounts if "keys-api" in mounts[name]} == {"keys", "api-1", "api-2"}
    for name in ("api-1", "api-2", "worker"):
        directory = services[name]["environment"]["DELTAFLEET_KEYS_DIRECTORY"]
        assert any(mount.split(":")[1] == directory for mount in services[name]["volumes"])


def test_own_containers_have_no_privileges(services: dict[str, Any]) -> None:
    for name in OURS:
        assert services[name]["read_only"]
        assert services[name]["cap_drop"] == ["ALL"]
        assert services[name]["security_opt"] == ["no-new-privileges:true"]


def test_the_balancer_accepts_its_configuration(services: dict[str, Any]) -> None:
    require_programs(haproxy=haproxy())
    file = ROOT / "deploy" / "haproxy.cfg"
    # The names are only known inside; addresses in their place must leave nothing to complain about.
    parameters = {
        name: re.sub(r"^(api-\d|s3):", "127.0.0.1:", value) for name, value in services["balancer"]["environment"].items()
    }
    checked = subprocess.run(
        [str(haproxy()), "-c", "-f", file],
        env={**os.environ, **parameters},
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert checked.returncode == 0, checked.stderr
    assert "WARNING" not in checked.stderr
    assert set(re.findall(r"\$\{(\w+)\}", file.read_text())) == set(parameters)


def haproxy() -> str | None:
    """Debian keeps it where only administrators look."""
    return shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
