"""Every refusal that crosses a boundary, with a stable code and a remedy.

    Refusal
    ├── ArtifactRefused            the bytes of a file are not acceptable
    │   ├── MalformedArtifact      artifact_malformed
    │   ├── UnsupportedArtifact    artifact_unsupported
    │   ├── LimitExceeded          limit_exceeded
    │   ├── ContentMismatch        content_mismatch
    │   └── WrongBase              wrong_base
    ├── ManifestRefused            manifest_invalid
    ├── MessageRefused             message_invalid
    ├── Untrusted                  untrusted: signatures, expiry, rollback, the two repositories disagree
    │   ├── MetadataExpired        metadata_expired
    │   ├── RollbackRefused        rollback_refused
    │   ├── WrongHardware          wrong_hardware
    │   └── NotEnrolled            not_enrolled
    ├── Unreachable                unreachable: try again later, nothing was proven wrong
    ├── SelfTestFailed             self_test_failed
    ├── ModelUnusable              model_unusable: the engine cannot run this content
    └── NotEnoughSpace             not_enough_space

*Untrusted* and *Unreachable* never mix: the first is final for those bytes and is reported, the second is retried.
"""

from __future__ import annotations

from typing import ClassVar


class Refusal(Exception):
    """A clear "no": what is wrong, and how to mend it.

    ``code`` is stable across releases; it travels in vehicle reports, problem+json bodies and the dashboard.
    """

    code: ClassVar[str] = "refused"

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}" if self.remedy else self.message


class ArtifactRefused(Refusal):
    """The bytes of a file are not acceptable."""

    code = "artifact_refused"


class MalformedArtifact(ArtifactRefused):
    """The bytes do not follow the format."""

    code = "artifact_malformed"


class UnsupportedArtifact(ArtifactRefused):
    """Well formed, but of a kind or a format version that this program does not read."""

    code = "artifact_unsupported"


class LimitExceeded(ArtifactRefused):
    """A declared or real size is above what the reader allows; refused before memory is taken."""

    code = "limit_exceeded"


class ContentMismatch(ArtifactRefused):
    """Decoding gave other bytes than the artifact names."""

    code = "content_mismatch"


class WrongBase(ArtifactRefused):
    """A delta was applied to a content other than the one it was made from."""

    code = "wrong_base"


class ManifestRefused(Refusal):
    """A manifest, or what shall become one, breaks a rule."""

    code = "manifest_invalid"


class MessageRefused(Refusal):
    """A wire message does not follow its schema."""

    code = "message_invalid"


class Untrusted(Refusal):
    """Signed metadata, or a file named by it, failed a check. Final for those bytes."""

    code = "untrusted"


class MetadataExpired(Untrusted):
    """Signed metadata is past its expiry: the repository is stale or somebody froze it."""

    code = "metadata_expired"


class RollbackRefused(Untrusted):
    """A release counter or metadata version below the installed one."""

    code = "rollback_refused"


class WrongHardware(Untrusted):
    """The target is signed for another hardware class."""

    code = "wrong_hardware"


class NotEnrolled(Untrusted):
    """The registry does not know this vehicle, or has not accepted it."""

    code = "not_enrolled"


class Unreachable(Refusal):
    """The other side did not answer, or not in time. Nothing was proven wrong; try again later."""

    code = "unreachable"


class SelfTestFailed(Refusal):
    """A decoded model does not reproduce the golden vectors of its manifest."""

    code = "self_test_failed"


class ModelUnusable(Refusal):
    """The engine cannot run this content: a bad graph, a missing weight, an operator it lacks."""

    code = "model_unusable"


class NotEnoughSpace(Refusal):
    """The file system cannot hold what is about to be written."""

    code = "not_enough_space"
