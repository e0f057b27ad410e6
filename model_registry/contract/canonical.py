"""Canonical JSON: the one byte string for a value, so that digests and signatures agree everywhere.

UTF-8, keys sorted, no spaces, no NaN or infinity, floats in Python's shortest round-trip form.
"""

from __future__ import annotations

import json
import math
from typing import Any

from model_registry.contract.errors import MessageRefused

MAX_DEPTH = 32


def canonical_json(value: Any) -> bytes:
    """Encode plain lists, dicts, strings, numbers and None. Raises ValueError for NaN and infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def parse_json_object(data: bytes, *, max_bytes: int) -> dict[str, Any]:
    """Read one JSON object strictly: bounded, UTF-8, no duplicate keys, no NaN.

    Raises MessageRefused.
    """
    if len(data) > max_bytes:
        raise MessageRefused(f"a JSON document of {len(data)} bytes is above the limit of {max_bytes}")
    try:
        value = json.loads(data.decode(), object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
        _require_canonical(value)
    except (ValueError, RecursionError) as exc:
        raise MessageRefused(f"not a JSON document: {exc}") from exc
    if not isinstance(value, dict):
        raise MessageRefused("a JSON object was expected")
    return value


def _require_canonical(value: Any) -> None:
    """Refuse what parses but could not be written back: lone surrogates, 1e999, nesting that exhausts the stack."""
    level = [value]
    for _ in range(MAX_DEPTH):
        if not level:
            return
        below: list[Any] = []
        for item in level:
            if isinstance(item, str):
                item.encode()
            elif isinstance(item, float) and not math.isfinite(item):
                raise ValueError("a number is beyond the range of a double")
            elif isinstance(item, dict):
                below += [*item.keys(), *item.values()]
            elif isinstance(item, list):
                below += item
        level = below
    raise ValueError(f"nested more than {MAX_DEPTH} deep")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return result


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")
