"""The vehicle's side of the vehicle API: enrol, check in, report. Everything sent is signed; nothing received is believed.

An answer from here only moves the machine to look; what is installed comes from signed metadata (``trust``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from client_agent.config import Config
from client_agent.identity import Identity
from client_agent.transport import HttpStatus, Response, Transport
from model_registry.contract.errors import MessageRefused, NotEnrolled, Refusal, Untrusted
from model_registry.contract.messages import CheckIn, Enrolment, Installed, Instruction, VehicleReport, payload_of

JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class Answer:
    """A check-in's answer: the instruction and its ETag; no instruction stands for "the same as last time"."""

    instruction: Instruction | None
    etag: str | None


class Registry:
    """Speaks for one vehicle; ``identity`` is asked for when something is to be said.

    Raises Unreachable for silence and server trouble, another Refusal for a clear "no".
    """

    def __init__(self, config: Config, identity: Callable[[], Identity], transport: Transport) -> None:
        self._config = config
        self._identity = identity
        self._transport = transport

    def enrol(self, token: str) -> str:
        """Introduce the vehicle with a one-time token; returns "accepted" or "pending"."""
        enrolment = Enrolment(
            vehicle_id=self._config.vehicle_id,
            token=token,
            family=self._config.family,
            hardware_id=self._config.hardware_id,
            public_key=self._identity().public_key,
            sequence=self._identity().next_sequence(),
        )
        response = self._post("enroll", enrolment)
        if response.status not in (200, 201):
            raise _refusal(response, self._url("enroll"))
        try:
            state = json.loads(response.body)["state"]
        except (ValueError, KeyError, TypeError) as exc:
            raise MessageRefused("the registry's answer to an enrolment is not the one agreed on") from exc
        return str(state)

    def check_in(self, installed: Installed | None, *, served: int, failed: int, etag: str | None) -> Answer:
        """Say what runs here and ask what shall."""
        check_in = CheckIn(self._config.vehicle_id, self._identity().next_sequence(), installed, served, failed)
        response = self._post("check-in", check_in, {"If-None-Match": etag} if etag else {})
        if response.status == 304 and etag:
            return Answer(None, etag)
        if response.status != 200:
            raise _refusal(response, self._url("check-in"))
        tag = response.headers.get("etag", "")
        return Answer(Instruction.from_bytes(response.body), tag if 0 < len(tag) <= 256 else None)

    def send(self, report: VehicleReport) -> None:
        """Deliver one report; its sequence is given here, when it is signed."""
        response = self._post("reports", report)
        if response.status not in (200, 202, 204):
            raise _refusal(response, self._url("reports"))

    def next_sequence(self) -> int:
        return self._identity().next_sequence()

    def _post(
        self, name: str, message: Enrolment | CheckIn | VehicleReport, headers: Mapping[str, str] | None = None
    ) -> Response:
        envelope = self._identity().sign(payload_of(message))
        return self._transport.post(self._url(name), envelope.to_bytes(), {**JSON, **(headers or {})})

    def _url(self, name: str) -> str:
        return f"{self._config.server}/device/v1/{name}"


def _refusal(response: Response, url: str) -> Refusal:
    """A status as a refusal: what may pass by itself is Unreachable, the rest is final for this message."""
    if response.status >= 500 or response.status in (408, 425, 429):
        return HttpStatus(response.status, url)
    code, detail, remedy = _problem(response.body)
    if code == "not_enrolled" or response.status == 403:
        return NotEnrolled(
            detail or "the registry does not know this vehicle", remedy=remedy or "enrol it, or have it accepted"
        )
    if response.status == 401:
        return Untrusted(detail or "the registry does not accept this vehicle's signature", remedy=remedy)
    return MessageRefused(f"the registry answered {response.status}: {detail or 'no reason given'}", remedy=remedy)


def _problem(body: bytes) -> tuple[str, str, str]:
    """Code, detail and remedy of a problem+json body, as far as it is one."""
    try:
        value = json.loads(body)
        return str(value.get("code", "")), str(value.get("detail", ""))[:300], str(value.get("remedy", ""))[:300]
    except (ValueError, AttributeError):
        return "", "", ""
