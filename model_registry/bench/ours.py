"""Our own artifacts in the form of a coder: contents' bytes in, an artifact out, and back as a vehicle does it."""

from __future__ import annotations

from model_registry.bench.coders import Coder
from model_registry.contract.content import Content
from model_registry.contract.delta import Codec, apply_delta
from model_registry.contract.full import decode_full, encode_full
from model_registry.contract.limits import DEFAULT_LIMITS


def _version() -> str:
    # Loaded here, so that its start is not counted; only what encodes needs it.
    import model_registry.deltas  # noqa: F401, PLC0415

    return "this tree"


def _full_encode(base: bytes, new: bytes) -> bytes:  # noqa: ARG001
    return encode_full(Content.from_data(new))


def _full_decode(base: bytes, data: bytes) -> bytes:  # noqa: ARG001
    return decode_full(data, DEFAULT_LIMITS).data


def _delta(codec: Codec) -> Coder:
    def encode(base: bytes, new: bytes) -> bytes:
        from model_registry.deltas import make_delta  # noqa: PLC0415

        return make_delta(Content.from_data(base), Content.from_data(new), codec).data

    return Coder(f"delta {codec}", _version, encode, _delta_decode)


def _delta_decode(base: bytes, data: bytes) -> bytes:
    return apply_delta(Content.from_data(base), data, DEFAULT_LIMITS).data


FULL = Coder("full", _version, _full_encode, _full_decode, uses_base=False)
DELTAS = tuple(_delta(codec) for codec in Codec)
