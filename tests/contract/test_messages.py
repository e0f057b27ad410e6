"""Wire messages and signed custom fields: strict, and the same on both ends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_registry.contract.canonical import canonical_json
from model_registry.contract.errors import MessageRefused, Untrusted
from model_registry.contract.messages import (
    MAX_HOPS,
    MAX_MESSAGE_BYTES,
    Assignment,
    BytesReceived,
    CheckIn,
    DeploymentState,
    Enrolment,
    Envelope,
    Hop,
    Installed,
    Instruction,
    VehicleReport,
    payload_of,
)
from model_registry.contract.targets import DeltaTarget, FullTarget

DIGEST, OTHER = "a" * 64, "b" * 64
RUNNING = Installed("1.0.0", DIGEST, 3)
MESSAGES = (
    Enrolment("VIN-1", "token", "signs", "orin", {"keytype": "ed25519"}, 0),
    CheckIn("VIN-1", 4, RUNNING, 10, 0),
    CheckIn("VIN-1", 1, None, 0, 0),
    VehicleReport("VIN-1", 5, "d1", DeploymentState.FAILED, "untrusted", "why", BytesReceived(1, 2, 3), RUNNING),
)
FULL = FullTarget("signs", "1.0.0", DIGEST, 1000, "orin", 4)
DELTA = DeltaTarget("signs", DIGEST, OTHER)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_every_message_survives_the_wire(message: Any) -> None:
    envelope = Envelope(payload_of(message), DIGEST, "ab" * 64)
    received = Envelope.from_bytes(envelope.to_bytes())
    assert received.signed_bytes == envelope.signed_bytes
    assert type(message).from_json(received.payload) == message


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_unknown_and_missing_fields_are_refused(message: Any) -> None:
    payload = payload_of(message)
    with pytest.raises(MessageRefused, match="unknown field"):
        type(message).from_json(payload | {"admin": True})
    with pytest.raises(MessageRefused):
        type(message).from_json({name: value for name, value in payload.items() if name != "sequence"})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vehicle_id", "../x"),
        ("vehicle_id", 7),
        ("sequence", -1),
        ("sequence", True),
        ("state", "pending"),
        ("state", "aborted"),
        ("state", "dancing"),
        ("received", {"metadata": 1, "delta": 2}),
        ("received", {"metadata": 1, "delta": 2, "full": -3}),
        ("received", {"metadata": 1, "delta": 2, "full": 3, "more": 1}),
        ("installed", {"version": "1", "content_sha256": DIGEST, "release_counter": 1}),
        ("installed", []),
        ("detail", "x" * 2000),
    ],
)
def test_wrong_values_in_a_report_are_refused(field: str, value: Any) -> None:
    with pytest.raises(MessageRefused):
        VehicleReport.from_json(payload_of(MESSAGES[3]) | {field: value})


def test_only_final_states_end_a_deployment() -> None:
    final = {state for state in DeploymentState if state.final}
    assert final == {DeploymentState.SUCCEEDED, DeploymentState.FAILED, DeploymentState.ABORTED}


@pytest.mark.parametrize(
    "assignment", [None, Assignment("d1", FULL.path, DIGEST, (Hop(DELTA.path, FULL.path),) * 2), Assignment("d", "p", DIGEST)]
)
def test_an_instruction_survives_the_wire(assignment: Assignment | None) -> None:
    instruction = Instruction(30.0, assignment)
    assert Instruction.from_bytes(instruction.to_bytes()) == instruction


@pytest.mark.parametrize(
    "hops",
    [
        None,
        {},
        [{}],
        [{"delta_path": "d"}],
        [{"delta_path": "d", "target_path": 7}],
        [{"delta_path": "d", "target_path": "t", "base": "b"}],
        [{"delta_path": "d" * 257, "target_path": "t"}],
        [{"delta_path": "d", "target_path": "t"}] * (MAX_HOPS + 1),
    ],
)
def test_ways_that_no_registry_offers_are_refused(hops: Any) -> None:
    assignment = {"deployment_id": "d", "target_path": "t", "content_sha256": DIGEST, "hops": hops}
    with pytest.raises(MessageRefused):
        Instruction.from_bytes(canonical_json({"poll_interval_s": 1, "assignment": assignment}))


@pytest.mark.parametrize("interval", [0, -1, 10**9])
def test_an_absurd_poll_interval_is_refused(interval: float) -> None:
    with pytest.raises(MessageRefused):
        Instruction.from_bytes(Instruction(interval, None).to_bytes())


@given(st.binary(max_size=300))
def test_no_bytes_break_an_envelope(data: bytes) -> None:
    with pytest.raises(MessageRefused):
        Envelope.from_bytes(data)


@pytest.mark.parametrize(
    "changes", [{"keyid": "short"}, {"signature": "abc"}, {"signature": ""}, {"payload": []}, {"extra": 1}]
)
def test_wrong_envelopes_are_refused(changes: dict[str, Any]) -> None:
    fields = {"payload": {}, "keyid": DIGEST, "signature": "ab"}
    with pytest.raises(MessageRefused):
        Envelope.from_bytes(canonical_json(fields | changes))


def test_a_message_above_the_limit_is_refused_unread() -> None:
    with pytest.raises(MessageRefused, match="above the limit"):
        Envelope.from_bytes(b"[" * (MAX_MESSAGE_BYTES + 1))


def test_custom_fields_of_targets_read_back() -> None:
    assert FullTarget.from_custom(FULL.to_custom()) == FULL


@pytest.mark.parametrize("changes", [{"kind": "delta"}, {"release_counter": 0}, {"content_sha256": "x"}, {"family": "../x"}])
def test_wrong_custom_fields_are_untrusted(changes: dict[str, Any]) -> None:
    with pytest.raises(Untrusted):
        FullTarget.from_custom(FULL.to_custom() | changes)


def test_a_delta_s_entry_describes_no_full_artifact() -> None:
    with pytest.raises(Untrusted):
        FullTarget.from_custom(None)


def test_target_paths_tell_contents_apart() -> None:
    assert FULL.path == "models/signs/1.0.0.dfm"
    assert DELTA.path == f"deltas/signs/{'a' * 16}-{'b' * 16}.dfd"
    assert replace(DELTA, base_sha256=OTHER, content_sha256=DIGEST).path != DELTA.path
