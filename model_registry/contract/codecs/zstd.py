"""The ``zstd`` delta codec: the new content's bytes in one zstd frame, with the base's bytes as raw-content dictionary.

The same as ``zstd --patch-from``; the window spans both contents.
"""

from __future__ import annotations

from model_registry.contract.codecs.sections import compress, decompress_to
from model_registry.contract.limits import MIB

LEVEL = 19
# Above this the highest levels take minutes and find little more.
LARGE_BYTES, LARGE_LEVEL = 64 * MIB, 9


def encode(base: bytes, new: bytes) -> bytes:
    """The payload that makes ``new`` of ``base``."""
    return compress(new, level=LEVEL if len(new) <= LARGE_BYTES else LARGE_LEVEL, dictionary=base)


def decode(base: bytes, payload: bytes, *, size: int) -> bytes:
    """The ``size`` bytes of the new content. Raises MalformedArtifact, LimitExceeded."""
    return decompress_to(payload, size=size, dictionary=base)
