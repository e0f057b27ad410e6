"""Upper bounds that a reader enforces before it allocates."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """What a reader is ready to spend on one artifact; sizes in bytes.

    A vehicle replaces ``max_content_bytes`` by the length in signed metadata, and bounds the artifact while it downloads.
    """

    max_artifact_bytes: int = 256 * MIB
    max_content_bytes: int = 512 * MIB
    max_manifest_bytes: int = 1 * MIB
    max_graph_bytes: int = 16 * MIB
    max_tensors: int = 10_000


DEFAULT_LIMITS = Limits()
