"""Whole updates against a real server: what a vehicle runs afterwards, what it said, what it cost."""

from __future__ import annotations

from model_registry.contract.content import Content
from model_registry.contract.messages import DeploymentState
from tests.agent.registry import FakeRegistry
from tests.agent.vehicles import Vehicle


def test_an_empty_vehicle_installs_the_full_artifact(registry: FakeRegistry, vehicle: Vehicle, v1: Content) -> None:
    item = registry.publish(v1, 1)
    registry.assign("car-1", "1.0.0")
    vehicle.check()
    assert vehicle.running is not None
    assert (vehicle.running.version, vehicle.running.mark) == ("1.0.0", "good")
    report = registry.last_report()
    assert report is not None
    assert (report.state, report.code, report.received.full) == (DeploymentState.SUCCEEDED, None, len(item.artifact))
    assert report.installed is not None
    assert report.installed.content_sha256 == v1.sha256


def test_an_update_takes_the_delta(registry: FakeRegistry, vehicle: Vehicle, v1: Content, v2: Content) -> None:
    registry.publish(v1, 1)
    registry.assign("car-1", "1.0.0")
    vehicle.check()
    registry.publish(v2, 2)
    delta = registry.publish_delta("1.0.0", "2.0.0")
    registry.assign("car-1", "2.0.0", "d2", delta=delta)
    vehicle.check()
    report = registry.last_report("d2")
    assert report is not None
    assert report.state is DeploymentState.SUCCEEDED
    assert report.received.delta > 0
    assert report.received.full == 0
    assert report.received.metadata > 0
    assert registry.replays == 0
