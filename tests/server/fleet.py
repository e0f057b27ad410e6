"""Vehicles and versions as the registry sees them, without agents and without jobs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import httpx2
from securesystemslib.signer import CryptoSigner
from sqlalchemy.orm import Session

from model_registry.contract.canonical import canonical_json
from model_registry.contract.messages import Envelope
from server.bootstrap import Registry, utc_now
from server.database import Database
from server.repositories import artifacts, fleet
from server.services import enrolment, publishing
from server.services.publishing import Compressed
from server.tables import Family, Vehicle, VehicleState, Version, VersionState

FAMILY, HARDWARE = "signs", "generic"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def add_family(session: Session, name: str = FAMILY) -> Family:
    return publishing.ensure_family(session, name, HARDWARE, utc_now())[0]


def add_version(session: Session, number: str, *, family: str = FAMILY, full_bytes: int = 1000) -> Version:
    """A published version whose files exist in name only."""
    add_family(session, family)
    content_sha256 = digest(f"content {family} {number}")
    version = Version(
        family=family,
        version=number,
        state=VersionState.PUBLISHED,
        release_counter=artifacts.next_release_counter(session, family),
        upload_id="none",
        upload_sha256=digest("upload"),
        recipe={},
        created_at=utc_now(),
        content_sha256=content_sha256,
        content_bytes=5000,
        full_sha256=digest(f"full {family} {number}"),
        full_bytes=full_bytes,
        float32_bytes=20_000,
        published_at=utc_now(),
    )
    session.add(version)
    session.flush()
    made = Compressed(content_sha256, 5000, version.full_sha256 or "", full_bytes, 20_000, 10_000)
    publishing.publish(session, version, made, delta_bases=0, now=utc_now())
    return version


def add_vehicle(
    session: Session, vehicle_id: str, *, runs: Version | None = None, state: VehicleState = VehicleState.ACCEPTED
) -> Vehicle:
    add_family(session)
    vehicle = Vehicle(
        id=vehicle_id,
        family=FAMILY,
        hardware_id=HARDWARE,
        state=state,
        public_key={"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": "00" * 32}},
        keyid=digest(vehicle_id),
        enrolled_at=utc_now(),
        installed_version=runs.version if runs else None,
        installed_sha256=runs.content_sha256 if runs else None,
        installed_counter=runs.release_counter if runs else None,
        installed_sequence=0,
    )
    session.add(vehicle)
    session.flush()
    fleet.touch(session, Vehicle.id == vehicle_id)
    return vehicle


def make_token(database: Database, *, auto_accept: bool = True) -> str:
    with database.writing() as session:
        add_family(session)
        return enrolment.make_tokens(session, count=1, family=FAMILY, auto_accept=auto_accept, now=utc_now())[0]


@dataclass
class SimulatedVehicle:
    """Signs messages as an agent does and sends them to whatever takes them."""

    http: httpx2.Client
    vehicle_id: str = "car-1"
    signer: CryptoSigner = field(default_factory=CryptoSigner.generate_ed25519)
    installed: dict[str, Any] | None = None
    sequence: int = 0

    @property
    def public_key(self) -> dict[str, Any]:
        value: dict[str, Any] = self.signer.public_key.to_dict()
        return value

    def next_sequence(self) -> int:
        self.sequence += 1
        return self.sequence

    def envelope(self, payload: dict[str, Any]) -> bytes:
        signature = self.signer.sign(canonical_json(payload))
        return Envelope(payload, signature.keyid, signature.signature).to_bytes()

    def send(self, door: str, payload: dict[str, Any], **headers: str) -> httpx2.Response:
        return self.http.post(f"/device/v1/{door}", content=self.envelope(payload), headers=headers)

    def enrolment(self, token: str, **changes: Any) -> dict[str, Any]:
        payload = {
            "vehicle_id": self.vehicle_id,
            "token": token,
            "family": FAMILY,
            "hardware_id": HARDWARE,
            "public_key": self.public_key,
            "sequence": self.next_sequence(),
        }
        return payload | changes

    def enrol(self, token: str, **changes: Any) -> httpx2.Response:
        return self.send("enroll", self.enrolment(token, **changes))

    def check_in_payload(self, **changes: Any) -> dict[str, Any]:
        payload = {
            "vehicle_id": self.vehicle_id,
            "sequence": self.next_sequence(),
            "installed": self.installed,
            "inferences_served": 0,
            "inferences_failed": 0,
        }
        return payload | changes

    def check_in(self, etag: str | None = None, **changes: Any) -> httpx2.Response:
        return self.send("check-in", self.check_in_payload(**changes), **({"If-None-Match": etag} if etag else {}))

    def report_payload(self, deployment_id: str, state: str, **changes: Any) -> dict[str, Any]:
        payload = {
            "vehicle_id": self.vehicle_id,
            "sequence": self.next_sequence(),
            "deployment_id": deployment_id,
            "state": state,
            "code": None,
            "detail": None,
            "received": {"metadata": 0, "delta": 0, "full": 0},
            "installed": self.installed,
        }
        return payload | changes

    def report(self, deployment_id: str, state: str, **changes: Any) -> httpx2.Response:
        return self.send("reports", self.report_payload(deployment_id, state, **changes))


def enrolled(http: httpx2.Client, registry: Registry, vehicle_id: str = "car-1") -> SimulatedVehicle:
    """A vehicle that was let in."""
    vehicle = SimulatedVehicle(http, vehicle_id)
    answer = vehicle.enrol(make_token(registry.database))
    assert answer.status_code == 201, answer.text
    return vehicle


def installed(version: Version) -> dict[str, Any]:
    return {
        "version": version.version,
        "content_sha256": version.content_sha256,
        "release_counter": version.release_counter,
    }
