"""The ``zstd`` delta codec: the new content's bytes in one zstd frame, with the base's bytes as raw-content dictionary.

The same as ``zstd --patch-from``; the window spans both contents.
"""

from __future__ import annotations

from model_registry.contract.codecs.sections import compress, decompress

LEVEL = 19


def encode(base: bytes, new: bytes) -> bytes:
    """The payload that makes ``new`` of ``base``."""
    return compress(new, level=LEVEL, dictionary=base)


def decode(base: bytes, payload: bytes, *, size: int) -> bytes:
    """At most ``size`` bytes. Raises MalformedArtifact, LimitExceeded."""
    return decompress(payload, max_bytes=size, dictionary=base)
