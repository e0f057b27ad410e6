"""Endless data, slow data, no data: what a hostile or broken network can do to a vehicle's trust is to make it wait."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client_agent.pace import PaceLimits
from client_agent.repositories import MAX_METADATA_BYTES, MAX_TARGETS_BYTES
from client_agent.transport import HttpStatus, HttpTransport, TlsSettings
from model_registry.contract.errors import Refusal, Unreachable, Untrusted
from model_registry.trust.keys import Role
from tests.trust.world import V1, V2, Attacker, FakeTransport, Fault, Registry, Vehicle, delta, via
from tests.web import Answer, Request, http_server, raw_server

QUICK = PaceLimits(connect_s=1, gap_s=0.4, total_s=1.5, window_s=0.4, min_bytes_per_s=1000)
# A first resolution: root, timestamp, snapshot and targets of both repositories, and the family's role.
REQUESTS = 9
ROOT_REQUESTS = (0, 4)


def status(code: int) -> Fault:
    return lambda url, _: failing(HttpStatus(code, url))


def failing(error: Refusal, *before: bytes) -> Iterator[bytes]:
    yield from before
    raise error


def cut(url: str, data: bytes | None) -> Iterator[bytes]:
    return failing(Unreachable("connection reset by peer"), (data or b"nothing")[:20])


def silence(url: str, data: bytes | None) -> Iterator[bytes]:
    return failing(Unreachable("no answer"))


def empty(url: str, data: bytes | None) -> Iterator[bytes]:
    yield b""


def captive_portal(url: str, data: bytes | None) -> Iterator[bytes]:
    yield b"<html>Please accept our terms</html>"


def endless(url: str, data: bytes | None) -> Iterator[bytes]:
    while True:
        yield bytes(4096)


FAULTS = {
    "403": status(403),
    "404": status(404),
    "500": status(500),
    "503": status(503),
    "cut": cut,
    "silence": silence,
    "empty": empty,
    "portal": captive_portal,
    "endless": endless,
}
NETWORK = ("403", "404", "500", "503", "cut", "silence")


@pytest.fixture(autouse=True)
def published(registry: Registry) -> None:
    registry.publish(V1, V2)
    registry.assign(V2)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_at_any_request_is_named_and_survived(
    registry: Registry, vehicle: Vehicle, transport: FakeTransport, fault: str, tmp_path: Path
) -> None:
    for number in range(REQUESTS):
        fresh = replace(vehicle, directory=tmp_path / f"{number}").install(registry.roots())
        transport.requests.clear()
        transport.faults = {number: FAULTS[fault]}
        if fault in ("403", "404") and number in ROOT_REQUESTS:
            assert fresh.resolved() == "2.0.0", "a missing root means that there is no newer one"
        else:
            with pytest.raises(Unreachable if fault in NETWORK else Untrusted):
                fresh.resolved()
        transport.faults = {}
        assert fresh.resolved() == "2.0.0"


def test_the_faults_above_reach_every_request(vehicle: Vehicle, transport: FakeTransport) -> None:
    vehicle.resolved()
    assert len(transport.requests) == REQUESTS
    assert [number for number, path in enumerate(transport.requests) if "root.json" in path] == list(ROOT_REQUESTS)


def test_a_fault_while_the_delta_is_looked_up_leaves_the_full_target(
    registry: Registry, vehicle: Vehicle, transport: FakeTransport
) -> None:
    path = registry.publish_delta(delta(V1, V2))
    repositories = vehicle.boot()
    repositories.resolve(counter_floor=1)
    transport.faults = {len(transport.requests): status(503)}
    hops, base = via(path, V2), V1.target.content_sha256
    with pytest.raises(Unreachable):
        repositories.chain(hops, base_sha256=base)
    assert [found.path for found in repositories.chain(hops, base_sha256=base)] == [path]


def test_a_signed_length_lifts_no_cap(registry: Registry, vehicle: Vehicle, transport: FakeTransport) -> None:
    thief = Attacker(registry, Role.TIMESTAMP)
    meta = {"snapshot.json": {"version": 2, "length": 10**9}}
    thief.edit_image("timestamp", Role.TIMESTAMP, lambda document: document.update(meta=meta))
    transport.faults = {6: endless}
    with pytest.raises(Untrusted, match="larger than any honest one"):
        vehicle.resolved()
    assert transport.requests[6].endswith("snapshot.json")
    assert transport.received < MAX_METADATA_BYTES["snapshot"] + 16 * 1024


@pytest.mark.parametrize("number", range(REQUESTS))
def test_endless_data_is_cut_at_the_cap_of_its_file(vehicle: Vehicle, transport: FakeTransport, number: int) -> None:
    transport.faults = {number: endless}
    with pytest.raises(Untrusted, match="larger"):
        vehicle.resolved()
    name = transport.requests[number].rpartition("/")[2].removesuffix(".json").rpartition(".")[2]
    assert transport.received < MAX_METADATA_BYTES.get(name, MAX_TARGETS_BYTES) + 16 * 1024


class Site:
    """The registry's files behind a real web server."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry

    def __call__(self, request: Request) -> Answer:
        data = self.registry.files.get(request.path)
        return Answer(404) if data is None else Answer(body=data)


def test_a_vehicle_resolves_over_real_http(registry: Registry, vehicle: Vehicle) -> None:
    with http_server(Site(registry)) as url:
        vehicle.transport, vehicle.base_url = HttpTransport(TlsSettings(), QUICK), url
        assert vehicle.resolved() == "2.0.0"


def test_one_connection_serves_a_whole_resolution(registry: Registry, vehicle: Vehicle) -> None:
    """The 404s that say "no newer root" leave it usable; each handshake saved is worth more than the metadata."""
    site = Site(registry)
    with http_server(lambda request: replace(site(request), body=site(request).body or b'{"status": 404}')) as url:
        transport = HttpTransport(TlsSettings(), QUICK)
        vehicle.transport, vehicle.base_url = transport, url
        assert vehicle.resolved() == "2.0.0"
        pool = transport._connections.pool.connection_from_url(url)
        assert (pool.num_connections, pool.num_requests) == (1, REQUESTS)


def test_metadata_cut_on_the_wire_is_unreachable_and_then_resolved(registry: Registry, vehicle: Vehicle) -> None:
    site, cuts = Site(registry), ["snapshot.json", "targets.json", "timestamp.json"]

    def flaky(request: Request) -> Answer:
        answer = site(request)
        if cuts and request.path.endswith(cuts[-1]):
            cuts.pop()
            return replace(answer, cut_after=len(answer.body) // 2)
        return answer

    with http_server(flaky) as url:
        vehicle.transport, vehicle.base_url = HttpTransport(TlsSettings(), QUICK), url
        for _ in range(3):
            with pytest.raises(Unreachable):
                vehicle.resolved()
        assert vehicle.resolved() == "2.0.0"


def drip(connection: socket.socket, over: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
    while not over.wait(0.05):
        connection.sendall(b"x")


def flood(connection: socket.socket, over: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while not over.is_set():
        connection.sendall(bytes(65536))


def boast(connection: socket.socket, over: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
    over.wait(1)


def test_a_slow_drip_is_given_up(vehicle: Vehicle) -> None:
    with raw_server(drip) as url:
        vehicle.transport, vehicle.base_url = HttpTransport(TlsSettings(), QUICK), url
        began = time.monotonic()
        with pytest.raises(Unreachable):
            vehicle.resolved()
        assert time.monotonic() - began < 10


@pytest.mark.parametrize("talk", [flood, boast])
def test_a_flood_is_refused(vehicle: Vehicle, talk: Any) -> None:
    with raw_server(talk) as url:
        vehicle.transport, vehicle.base_url = HttpTransport(TlsSettings(), QUICK), url
        with pytest.raises(Untrusted, match="larger"):
            vehicle.resolved()


def test_nothing_is_fetched_over_plain_http_from_afar(vehicle: Vehicle) -> None:
    vehicle.transport, vehicle.base_url = HttpTransport(TlsSettings(), QUICK), "http://registry.example"
    with pytest.raises(Unreachable, match="https"):
        vehicle.resolved()
