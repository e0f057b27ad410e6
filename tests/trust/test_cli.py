"""``deltafleet keys`` as an operator types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from model_registry.contract.errors import Refusal
from model_registry.trust.cli import keys_app
from model_registry.trust.keys import Keyring, KeyringRefused, Role
from model_registry.trust.roots import Repository, parse_root
from tests.trust.world import V1, Clock, FakeTransport, Registry, Vehicle


def keys(*words: object) -> Result:
    return CliRunner().invoke(keys_app, [str(word) for word in words])


def done(*words: object) -> str:
    result = keys(*words)
    assert result.exit_code == 0, result.output
    return result.output


def test_init_makes_keys_once_and_says_what_it_did(tmp_path: Path) -> None:
    assert "made ed25519 keys for root, targets, family" in done("init", tmp_path / "keys")
    assert "nothing was made" in done("init", tmp_path / "keys")


def test_init_completes_what_is_missing(tmp_path: Path) -> None:
    done("init", tmp_path / "keys")
    path = tmp_path / "keys" / "keys.json"
    document = json.loads(path.read_bytes())
    del document["roles"]["delta"]
    path.write_text(json.dumps(document))
    output = done("init", tmp_path / "keys", "--type", "p256")
    assert "completed" in output
    assert "for delta" in output


def test_show_lists_roles_and_roots(tmp_path: Path) -> None:
    done("init", tmp_path / "keys", "--type", "p256")
    (tmp_path / "keys" / "root.pem").unlink()
    output = done("show", tmp_path / "keys")
    assert [line for line in output.splitlines() if line.startswith("root ") and "(not here)" in line]
    assert "image root: version 1, expires 20" in output
    document = json.loads(done("show", tmp_path / "keys", "--json"))
    assert [row["role"] for row in document["roles"]] == [role.value for role in Role]
    assert {row["scheme"] for row in document["roles"]} == {"ecdsa-sha2-nistp256"}
    assert not [row for row in document["roles"] if row["can_sign"] == (row["role"] == "root")]


def test_no_private_key_is_ever_shown(tmp_path: Path) -> None:
    done("init", tmp_path / "keys")
    shown = done("show", tmp_path / "keys") + done("show", tmp_path / "keys", "--json")
    for path in (tmp_path / "keys").glob("*.pem"):
        assert path.read_text().splitlines()[1] not in shown


def test_roots_are_what_a_vehicle_starts_from(registry: Registry, clock: Clock, tmp_path: Path) -> None:
    output = done("roots", registry.keyring.directory, "-o", tmp_path / "new" / "roots")
    assert output.splitlines() == [str(tmp_path / "new" / "roots" / f"{r.value}-root.json") for r in Repository]
    roots = {path.name: path.read_bytes() for path in (tmp_path / "new" / "roots").iterdir()}
    assert {parse_root(data).version for data in roots.values()} == {1}
    registry.publish(V1)
    registry.assign(V1)
    vehicle = Vehicle(tmp_path / "trust", FakeTransport(lambda: registry.files), clock).install(roots)
    assert vehicle.resolved() == "1.0.0"


@pytest.mark.parametrize("command", [("show",), ("roots", "-o", "out")])
def test_a_directory_without_keys_is_a_refusal_with_a_remedy(tmp_path: Path, command: tuple[str, ...]) -> None:
    result = keys(command[0], tmp_path / "nothing", *command[1:])
    assert isinstance(result.exception, KeyringRefused)
    assert "deltafleet keys init" in result.exception.remedy
    assert not Path("out").exists()


def test_a_place_that_cannot_be_written_is_a_refusal(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for command in (
        ["init", tmp_path / "file" / "keys"],
        ["roots", registry.keyring.directory, "-o", tmp_path / "file" / "out"],
    ):
        result = keys(*command)
        assert isinstance(result.exception, Refusal)
        assert "cannot be written" in str(result.exception)


def test_wrong_use_is_two(tmp_path: Path) -> None:
    assert keys("init").exit_code == 2
    assert keys("init", tmp_path, "--type", "rsa").exit_code == 2
    assert keys("roots", tmp_path).exit_code == 2


def test_what_init_made_is_a_keyring(tmp_path: Path) -> None:
    done("init", tmp_path / "keys")
    keyring = Keyring.load(tmp_path / "keys")
    assert all(keyring.can_sign(role) for role in Role)
