"""What to do about a failed deployment, by the code that its vehicle reported. The words are for the fleet engineer."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

REMEDIES: Mapping[str, str] = MappingProxyType(
    {
        "artifact_malformed": "The file was damaged on its way or at rest. Check the stored artifact's digest.",
        "artifact_unsupported": "The agent is older than the artifact format. Update the agent on this vehicle first.",
        "artifact_refused": "The vehicle would not take the file. Its detail names the rule.",
        "limit_exceeded": "The model is above the vehicle's limits. Raise them in its settings, or publish a smaller one.",
        "content_mismatch": "The rebuilt model differs from the signed one. Publish again; a new delta is made.",
        "wrong_base": "The vehicle runs another version than the registry thought. Its next check-in settles that.",
        "manifest_invalid": "The manifest breaks a rule. Publish the version again with a current deltafleet.",
        "message_invalid": "Agent and registry disagree on the message format. Bring both to the same release.",
        "untrusted": "A signature did not hold. Find out who changed the repository before you start again.",
        "metadata_expired": "Signed metadata ran out. Check that the registry's worker runs, and the vehicle's clock.",
        "rollback_refused": "The version is older than the installed one. Publish the old weights as a new version instead.",
        "wrong_hardware": "The version is signed for other hardware. Check the vehicle's hardware id against the family's.",
        "not_enrolled": "The registry does not know this vehicle. Accept it, or enrol it again with a fresh token.",
        "unreachable": "The vehicle lost its connection. It tries again by itself at the next check-in.",
        "self_test_failed": "The model does not answer as it did when it was published. Check the vehicle's engine.",
        "model_unusable": "The vehicle's engine cannot run this graph. Check its operators against the agent's ONNX Runtime.",
        "not_enough_space": "The disk is full. Free space in the agent's state directory, then start again.",
        "refused": "The vehicle said no without a known reason. Its detail and its log say more.",
    }
)
UNKNOWN = "A reason that this registry does not know: the agent may be newer. Its detail and its log say more."


def remedy(code: str) -> str:
    """The next step for a failure code."""
    return REMEDIES.get(code, UNKNOWN)
