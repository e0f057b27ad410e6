"""How vehicles become known: a one-time token, a key of their own, an operator's word.

Repeating an enrolment that was answered already gives the same answer. A vehicle's name never changes keys by itself: whoever
holds a token could otherwise take over a vehicle that is on the road.
"""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime

from sqlalchemy.orm import Session

from model_registry.contract.errors import NotEnrolled, WrongHardware
from model_registry.contract.messages import Enrolment
from server.errors import Conflict, NotFound
from server.repositories import artifacts, fleet, rollouts
from server.tables import Family, Vehicle, VehicleState

MAX_TOKENS = 10_000


def make_tokens(session: Session, *, count: int, family: str, auto_accept: bool, now: datetime) -> list[str]:
    """Fresh one-time tokens, of which only digests are kept. Raises NotFound.

    Hexadecimal: a token that began with a hyphen would read as an option on the vehicle's command line.
    """
    if artifacts.family(session, family) is None:
        raise NotFound(f"there is no family {family}", remedy="create it first")
    tokens = [secrets.token_hex(24) for _ in range(count)]
    fleet.add_tokens(session, [_digest(t) for t in tokens], family, auto_accept=auto_accept, now=now)
    return tokens


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def enrol(session: Session, enrolment: Enrolment, keyid: str, now: datetime) -> Vehicle:
    """Take a vehicle in. The caller has checked that it holds the key. Raises NotEnrolled, WrongHardware, Conflict."""
    token = fleet.token(session, _digest(enrolment.token))
    if token is None or token.family != enrolment.family:
        raise NotEnrolled(
            "the enrolment token is unknown here, or is for another family", remedy="ask the operator for a token"
        )
    family = session.get_one(Family, token.family)
    if family.hardware_id != enrolment.hardware_id:
        raise WrongHardware(
            f"{family.name} is for {family.hardware_id}, this vehicle says {enrolment.hardware_id}",
            remedy="enrol it in the family of its hardware",
        )
    known = fleet.vehicle(session, enrolment.vehicle_id, lock=True)
    if known is not None and token.used_by == enrolment.vehicle_id and known.keyid == keyid:
        return known
    if known is not None and known.state != VehicleState.REJECTED:
        raise Conflict(
            f"the vehicle {enrolment.vehicle_id} is enrolled already", remedy="reject it first, then enrol it with a new token"
        )
    if not fleet.use_token(session, token.sha256, enrolment.vehicle_id, now):
        raise NotEnrolled("the enrolment token was used already", remedy="ask the operator for another one")
    return _take_in(session, known, enrolment, keyid, accepted=token.auto_accept, now=now)


def _take_in(
    session: Session, known: Vehicle | None, enrolment: Enrolment, keyid: str, *, accepted: bool, now: datetime
) -> Vehicle:
    vehicle = known or Vehicle(id=enrolment.vehicle_id)
    vehicle.family, vehicle.hardware_id = enrolment.family, enrolment.hardware_id
    vehicle.state = VehicleState.ACCEPTED if accepted else VehicleState.PENDING
    vehicle.public_key, vehicle.keyid, vehicle.enrolled_at = enrolment.public_key, keyid, now
    vehicle.installed_version = vehicle.installed_sha256 = vehicle.installed_counter = None
    vehicle.installed_sequence = enrolment.sequence
    session.add(vehicle)
    fleet.forget_presence(session, vehicle.id)
    session.flush()
    fleet.touch(session, Vehicle.id == vehicle.id)
    return vehicle


def settle(session: Session, vehicle_id: str, state: VehicleState, now: datetime) -> Vehicle:
    """Accept a vehicle or turn it away, which ends what it was doing. Raises NotFound."""
    vehicle = fleet.vehicle(session, vehicle_id, lock=True)
    if vehicle is None:
        raise NotFound(f"there is no vehicle {vehicle_id}")
    if vehicle.state != state:
        fleet.touch(session, Vehicle.id == vehicle_id)
        vehicle.state = state
        if state is VehicleState.REJECTED:
            rollouts.abort_unfinished_of_vehicle(session, vehicle_id, now)
        session.flush()
    return vehicle
