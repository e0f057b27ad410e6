"""The vehicle API's wire messages. Both ends import this file; unknown fields are refused.

Everything a vehicle sends is an ``Envelope``: one of the payloads below, signed with the vehicle's own key over its canonical
JSON. ``sequence`` grows with every message of a vehicle: the registry applies each number once, so a lost answer is retried
safely and a recorded message cannot be replayed.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from model_registry.contract.canonical import canonical_json, parse_json_object
from model_registry.contract.errors import MessageRefused
from model_registry.contract.fields import NAME, SEMVER, SHA256, Fields

MAX_MESSAGE_BYTES = 64 * 1024
# More than any vehicle takes; a vehicle has a limit of its own below this one.
MAX_HOPS = 8
VEHICLE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
HEX = re.compile(r"([0-9a-f]{2}){1,8192}")


class DeploymentState(StrEnum):
    """Where one vehicle's attempt stands. The registry adds ``pending`` and ``aborted``; the vehicle reports the rest."""

    PENDING = "pending"
    DOWNLOADING = "downloading"
    REBUILDING = "rebuilding"
    TESTING = "testing"
    PROBATION = "probation"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ABORTED = "aborted"

    @property
    def final(self) -> bool:
        return self in (DeploymentState.SUCCEEDED, DeploymentState.FAILED, DeploymentState.ABORTED)


@dataclass(frozen=True, slots=True)
class Installed:
    """What a vehicle runs. The empty vehicle, straight from the factory, sends none."""

    version: str
    content_sha256: str
    release_counter: int


@dataclass(frozen=True, slots=True)
class BytesReceived:
    """Body bytes a vehicle received for one deployment so far, by kind; retries and failed attempts count."""

    metadata: int = 0
    delta: int = 0
    full: int = 0

    @property
    def total(self) -> int:
        return self.metadata + self.delta + self.full


@dataclass(frozen=True, slots=True)
class Enrolment:
    """A vehicle introduces itself, once. ``public_key`` is securesystemslib's dictionary (keytype, scheme, keyval)."""

    vehicle_id: str
    token: str
    family: str
    hardware_id: str
    public_key: dict[str, Any]
    sequence: int

    @classmethod
    def from_json(cls, value: Any) -> Enrolment:
        """Raises MessageRefused."""
        fields = Fields(value, MessageRefused, "enrolment").only(*cls.__slots__)
        return cls(
            vehicle_id=fields.text("vehicle_id", pattern=VEHICLE_ID),
            token=fields.text("token", max_length=256),
            family=fields.text("family", pattern=NAME),
            hardware_id=fields.text("hardware_id", pattern=NAME),
            public_key=fields.object("public_key").plain(),
            sequence=fields.integer("sequence"),
        )


@dataclass(frozen=True, slots=True)
class CheckIn:
    """What the vehicle runs, and the question whether there is anything to do.

    Served and failed inferences count since the agent's installation.
    """

    vehicle_id: str
    sequence: int
    installed: Installed | None
    inferences_served: int
    inferences_failed: int

    @classmethod
    def from_json(cls, value: Any) -> CheckIn:
        """Raises MessageRefused."""
        fields = Fields(value, MessageRefused, "check_in").only(*cls.__slots__)
        return cls(
            vehicle_id=fields.text("vehicle_id", pattern=VEHICLE_ID),
            sequence=fields.integer("sequence"),
            installed=_installed(fields.optional_object("installed")),
            inferences_served=fields.integer("inferences_served"),
            inferences_failed=fields.integer("inferences_failed"),
        )


@dataclass(frozen=True, slots=True)
class VehicleReport:
    """How one deployment goes. ``code`` is a Refusal's code when it failed; ``received`` counts from the deployment's start."""

    vehicle_id: str
    sequence: int
    deployment_id: str
    state: DeploymentState
    code: str | None
    detail: str | None
    received: BytesReceived
    installed: Installed | None

    @classmethod
    def from_json(cls, value: Any) -> VehicleReport:
        """Raises MessageRefused."""
        fields = Fields(value, MessageRefused, "report").only(*cls.__slots__)
        state = fields.text("state")
        if state not in set(DeploymentState) - {DeploymentState.PENDING, DeploymentState.ABORTED}:
            raise MessageRefused(f"{state!r} is not a state that a vehicle reports")
        received = fields.object("received").only("metadata", "delta", "full")
        return cls(
            vehicle_id=fields.text("vehicle_id", pattern=VEHICLE_ID),
            sequence=fields.integer("sequence"),
            deployment_id=fields.text("deployment_id", max_length=64),
            state=DeploymentState(state),
            code=fields.optional_text("code", max_length=64),
            detail=fields.optional_text("detail", max_length=1024),
            received=BytesReceived(received.integer("metadata"), received.integer("delta"), received.integer("full")),
            installed=_installed(fields.optional_object("installed")),
        )


@dataclass(frozen=True, slots=True)
class Hop:
    """A delta, and the full target whose content it leads to; both by their names in the image repository."""

    delta_path: str
    target_path: str

    @classmethod
    def from_json(cls, fields: Fields) -> Hop:
        fields.only(*cls.__slots__)
        return cls(fields.text("delta_path", max_length=256), fields.text("target_path", max_length=256))


@dataclass(frozen=True, slots=True)
class Assignment:
    """What the vehicle is asked to run; a hint that signed metadata makes true.

    ``hops`` are the deltas to take one after the other, from what runs to the target. None: its full artifact is cheaper.
    """

    deployment_id: str
    target_path: str
    content_sha256: str
    hops: tuple[Hop, ...] = ()

    @classmethod
    def from_json(cls, fields: Fields) -> Assignment:
        fields.only(*cls.__slots__)
        return cls(
            deployment_id=fields.text("deployment_id", max_length=64),
            target_path=fields.text("target_path", max_length=256),
            content_sha256=fields.text("content_sha256", pattern=SHA256),
            hops=tuple(Hop.from_json(hop) for hop in fields.objects("hops", max_length=MAX_HOPS)),
        )


@dataclass(frozen=True, slots=True)
class Instruction:
    """The registry's answer to a check-in; 304 stands for "the same as last time"."""

    poll_interval_s: float
    assignment: Assignment | None

    def to_bytes(self) -> bytes:
        return canonical_json(asdict(self))

    @classmethod
    def from_bytes(cls, data: bytes) -> Instruction:
        """Raises MessageRefused."""
        value = parse_json_object(data, max_bytes=MAX_MESSAGE_BYTES)
        fields = Fields(value, MessageRefused, "instruction").only(*cls.__slots__)
        assignment = fields.optional_object("assignment")
        interval = fields.number("poll_interval_s")
        if not 0 < interval <= 7 * 86_400:
            raise MessageRefused("the poll interval is not between 0 and a week")
        return cls(interval, Assignment.from_json(assignment) if assignment else None)


@dataclass(frozen=True, slots=True)
class Envelope:
    """A signed payload: hexadecimal ``signature`` over ``canonical_json(payload)``, ``keyid`` as securesystemslib makes it."""

    payload: dict[str, Any]
    keyid: str
    signature: str

    @property
    def signed_bytes(self) -> bytes:
        return canonical_json(self.payload)

    def to_bytes(self) -> bytes:
        return canonical_json(asdict(self))

    @classmethod
    def from_bytes(cls, data: bytes) -> Envelope:
        """Raises MessageRefused; the payload is not looked into before its signature is checked."""
        value = parse_json_object(data, max_bytes=MAX_MESSAGE_BYTES)
        fields = Fields(value, MessageRefused, "envelope").only(*cls.__slots__)
        return cls(
            payload=fields.object("payload").plain(),
            keyid=fields.text("keyid", pattern=SHA256),
            signature=fields.text("signature", pattern=HEX, max_length=16384),
        )


def payload_of(message: Enrolment | CheckIn | VehicleReport) -> dict[str, Any]:
    """The plain JSON object of a message, ready to be signed."""
    return asdict(message)


def _installed(fields: Fields | None) -> Installed | None:
    if fields is None:
        return None
    fields.only(*Installed.__slots__)
    return Installed(
        version=fields.text("version", pattern=SEMVER, max_length=64),
        content_sha256=fields.text("content_sha256", pattern=SHA256),
        release_counter=fields.integer("release_counter"),
    )
