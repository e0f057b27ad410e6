"""Worlds for the attacks: one set of keys for the session, everything else new for each test."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from model_registry.trust.keys import Keyring, init_keys
from tests.trust.world import NOON, Clock, FakeTransport, Registry, Vehicle


@pytest.fixture(scope="session")
def made_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("made") / "keys"
    init_keys(directory)
    Registry(Keyring.load(directory), Clock(NOON)).roots()
    return directory


@pytest.fixture
def key_directory(made_keys: Path, tmp_path: Path) -> Path:
    """Keys that the test may change."""
    return Path(shutil.copytree(made_keys, tmp_path / "keys"))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry(key_directory: Path, clock: Clock) -> Registry:
    return Registry(Keyring.load(key_directory), clock)


@pytest.fixture
def transport(registry: Registry) -> FakeTransport:
    return FakeTransport(lambda: registry.files)


@pytest.fixture
def vehicle(registry: Registry, transport: FakeTransport, clock: Clock, tmp_path: Path) -> Vehicle:
    return Vehicle(tmp_path / "trust", transport, clock).install(registry.roots())


MakeVehicle = Callable[..., Vehicle]
