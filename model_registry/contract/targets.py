"""What signed metadata says about a target beyond its length and hashes: TUF's ``custom`` field, as values.

The image repository signs full artifacts under the family's role and deltas under an online role; the director signs, for
one vehicle, the full target it shall run. A vehicle installs what both say (Uptane 2.1, full verification).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from model_registry.contract.errors import Untrusted
from model_registry.contract.fields import NAME, SEMVER, SHA256, Fields


def full_path(family: str, version: str) -> str:
    """Name of a version's full artifact in the image repository."""
    return f"models/{family}/{version}.dfm"


def delta_path(family: str, base_sha256: str, content_sha256: str) -> str:
    """Name of a delta; the digests say from which content to which, so no two deltas share a name.

    Whoever finds two contents whose digests begin alike gains nothing: what a delta makes is held against the whole digest.
    """
    return f"deltas/{family}/{base_sha256[:16]}-{content_sha256[:16]}.dfd"


@dataclass(frozen=True, slots=True)
class FullTarget:
    """Custom data of a full artifact; identical in both repositories (Uptane's "SHALL match" fields)."""

    family: str
    version: str
    content_sha256: str
    content_bytes: int
    hardware_id: str
    release_counter: int

    @property
    def path(self) -> str:
        return full_path(self.family, self.version)

    def to_custom(self) -> dict[str, Any]:
        return {
            "kind": "full",
            "family": self.family,
            "version": self.version,
            "content_sha256": self.content_sha256,
            "content_bytes": self.content_bytes,
            "hardware_id": self.hardware_id,
            "release_counter": self.release_counter,
        }

    @classmethod
    def from_custom(cls, value: Any) -> FullTarget:
        """Raises Untrusted."""
        fields = Fields(value, Untrusted, "custom")
        if fields.text("kind") != "full":
            raise Untrusted("the target is not a full artifact")
        return cls(
            family=fields.text("family", pattern=NAME),
            version=fields.text("version", pattern=SEMVER),
            content_sha256=fields.text("content_sha256", pattern=SHA256),
            content_bytes=fields.integer("content_bytes", high=2**40),
            hardware_id=fields.text("hardware_id", pattern=NAME),
            release_counter=fields.integer("release_counter", low=1),
        )


@dataclass(frozen=True, slots=True)
class DeltaTarget:
    """A delta artifact. Its name says all: what it leads to is described, and signed, as a full target of that content.

    So it has no custom data; that would be twice as long as the rest of its entry, which every vehicle reads.
    """

    family: str
    base_sha256: str
    content_sha256: str

    @property
    def path(self) -> str:
        return delta_path(self.family, self.base_sha256, self.content_sha256)
