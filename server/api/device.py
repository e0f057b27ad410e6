"""The vehicle's only door: enrol, check in, report. Everything that comes in is signed by the vehicle.

These are plain Starlette routes: the check-in is by far the most frequent request, and the framework's validation of a body
that is verified and parsed here anyway would double its price.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prometheus_client import Counter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from model_registry.contract.canonical import canonical_json
from model_registry.contract.errors import MessageRefused, NotEnrolled
from model_registry.contract.messages import VEHICLE_ID, CheckIn, Enrolment, Envelope, VehicleReport
from model_registry.trust.keys import vehicle_key, verify_envelope, verify_signed_by
from server.api.checkins import CheckIns, Entry, PresenceBuffer
from server.bootstrap import Registry
from server.errors import NotAccepted
from server.repositories.fleet import Seen
from server.services import deployments, enrolment
from server.tables import VehicleState

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class DeviceDoor:
    """What the three routes need."""

    registry: Registry
    checkins: CheckIns
    presences: PresenceBuffer
    answered: Counter


async def check_in(request: Request) -> Response:
    """What the vehicle shall do now; 304 when that is what it was told last time."""
    door: DeviceDoor = request.app.state.device
    envelope = Envelope.from_bytes(await request.body())
    vehicle_id = claimed_vehicle(envelope)
    entry = await _verified(door, vehicle_id, envelope)
    message = CheckIn.from_json(envelope.payload)
    _require_accepted(entry)
    now = door.registry.clock()
    installed_sha256 = message.installed.content_sha256 if message.installed else None
    if installed_sha256 != entry.installed_sha256 and message.sequence > entry.sequence:
        entry = await run_in_threadpool(door.checkins.note_installed, vehicle_id, message.installed, message.sequence)
    door.presences.note(Seen(vehicle_id, now, message.sequence, message.inferences_served, message.inferences_failed))
    if request.headers.get("if-none-match") == entry.etag:
        door.answered.labels("unchanged").inc()
        return Response(status_code=304, headers={"ETag": entry.etag})
    door.answered.labels("instruction").inc()
    return Response(entry.body, media_type=JSON, headers={"ETag": entry.etag})


async def report(request: Request) -> Response:
    """How a deployment goes. Taken once; a repetition is answered as the first time."""
    door: DeviceDoor = request.app.state.device
    envelope = Envelope.from_bytes(await request.body())
    vehicle_id = claimed_vehicle(envelope)
    entry = await _verified(door, vehicle_id, envelope)
    message = VehicleReport.from_json(envelope.payload)
    _require_accepted(entry)

    def ingest() -> None:
        with door.registry.database.writing() as session:
            deployments.ingest(session, message, door.registry.clock())
        door.checkins.forget(vehicle_id)

    await run_in_threadpool(ingest)
    return Response(status_code=204)


async def enrol(request: Request) -> Response:
    """A vehicle introduces itself with a one-time token and proves that it holds its key."""
    door: DeviceDoor = request.app.state.device
    envelope = Envelope.from_bytes(await request.body())
    message = Enrolment.from_json(envelope.payload)
    verify_envelope(envelope, message.public_key)
    keyid = vehicle_key(message.public_key).keyid

    def take_in() -> str:
        with door.registry.database.writing() as session:
            state = enrolment.enrol(session, message, keyid, door.registry.clock()).state
        door.checkins.forget(message.vehicle_id)
        return state

    state = await run_in_threadpool(take_in)
    return Response(canonical_json({"state": state}), 201, media_type=JSON)


def claimed_vehicle(envelope: Envelope) -> str:
    """Whose key the signature is to be checked with; nothing else is read before. Raises MessageRefused."""
    vehicle_id = envelope.payload.get("vehicle_id")
    if not isinstance(vehicle_id, str) or not VEHICLE_ID.fullmatch(vehicle_id):
        raise MessageRefused("the message names no vehicle")
    return vehicle_id


async def _verified(door: DeviceDoor, vehicle_id: str, envelope: Envelope) -> Entry:
    """The vehicle that signed this message. Raises NotEnrolled, Untrusted."""
    entry = door.checkins.get(vehicle_id)
    if entry is None:
        entry = await run_in_threadpool(door.checkins.load, vehicle_id)
    if entry.key is None:
        raise NotEnrolled(f"the vehicle {vehicle_id} is not enrolled here", remedy="enrol it with a token")
    verify_signed_by(envelope, entry.key)
    return entry


def _require_accepted(entry: Entry) -> None:
    if entry.state is VehicleState.PENDING:
        raise NotAccepted("the vehicle waits for an operator to accept it", remedy="deltafleet vehicles accept ID")
    if entry.state is VehicleState.REJECTED:
        raise NotAccepted("an operator has turned the vehicle away", remedy="enrol it again with a new token")


routes = [
    Route("/device/v1/check-in", check_in, methods=["POST"]),
    Route("/device/v1/reports", report, methods=["POST"]),
    Route("/device/v1/enroll", enrol, methods=["POST"]),
]


def openapi_paths() -> dict[str, Any]:
    """The three routes for the API's description, which the framework does not make for plain routes."""
    body = {
        "required": True,
        "content": {JSON: {"schema": {"$ref": "#/components/schemas/Envelope"}}},
    }
    problem = {"description": "a problem", "content": {"application/problem+json": {"schema": {"type": "object"}}}}

    def post(name: str, summary: str, answers: dict[str, str]) -> dict[str, Any]:
        told = {status: {"description": text} for status, text in answers.items()}
        refusals = dict.fromkeys(("400", "401", "403", "413"), problem)
        details = {"operationId": name, "summary": summary, "tags": ["vehicles' door"]}
        return {"post": {**details, "requestBody": body, "responses": {**told, **refusals}}}

    return {
        "/device/v1/enroll": post("enrol", "Introduce a vehicle", {"201": "accepted or pending"}),
        "/device/v1/check-in": post(
            "check_in", "Ask what to do", {"200": "an instruction, with its ETag", "304": "the same as last time"}
        ),
        "/device/v1/reports": post("report", "Tell how a deployment goes", {"204": "taken"}),
    }


ENVELOPE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "A payload signed with the vehicle's key over its canonical JSON.",
    "required": ["payload", "keyid", "signature"],
    "additionalProperties": False,
    "properties": {"payload": {"type": "object"}, "keyid": {"type": "string"}, "signature": {"type": "string"}},
}
