"""Vehicles and a registry for them; keys and contents are made once a session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from model_registry.contract.content import Content
from model_registry.trust.keys import init_keys
from tests.agent.models import make_content
from tests.agent.registry import FakeRegistry, serving
from tests.agent.vehicles import Vehicle


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("keys")
    init_keys(directory)
    return directory


@pytest.fixture(scope="session")
def v1() -> Content:
    return make_content("1.0.0")


@pytest.fixture(scope="session")
def v2() -> Content:
    return make_content("2.0.0", change=lambda w: w * 1.5)


@pytest.fixture(scope="session")
def v3() -> Content:
    return make_content("2.1.0", change=lambda w: w * 1.75)


@pytest.fixture
def registry(keys: Path) -> Iterator[FakeRegistry]:
    with serving(keys) as registry:
        yield registry


@pytest.fixture
def vehicle(registry: FakeRegistry, tmp_path: Path) -> Vehicle:
    return Vehicle(tmp_path / "car-1", registry).enrol()
