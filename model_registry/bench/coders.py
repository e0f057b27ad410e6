"""One small form for everything that makes few bytes of many, ours or not; ``base`` is b"" where the reader has nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Encode = Callable[[bytes, bytes], bytes]


class CoderMissing(Exception):
    """It is not installed on this machine."""


@dataclass(frozen=True, slots=True)
class Coder:
    """``encode(base, new)`` gives what travels, ``decode(base, data)`` gives new back.

    ``version`` loads what the coder needs, so that its start is not counted, and says which it is; it raises CoderMissing.
    ``uses_base``: False for a compressor, whose result is the same whatever the reader has.
    """

    name: str
    version: Callable[[], str]
    encode: Encode
    decode: Encode
    uses_base: bool = True
