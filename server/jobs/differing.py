"""In the child: two full artifacts become the smallest proven delta between them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from model_registry.contract.full import decode_full
from model_registry.deltas import counterfactuals, make_delta
from server.jobs import BASE_FILE, DELTA_FILE, NEW_FILE


def make(folder: Path, progress: Callable[[float, str], None]) -> dict[str, Any]:
    """Turn ``folder/base.dfm`` and ``folder/new.dfm`` into ``folder/delta.dfd``. Raises Refusal."""
    progress(0.0, "decode")
    base, new = decode_full((folder / BASE_FILE).read_bytes()), decode_full((folder / NEW_FILE).read_bytes())
    progress(0.1, "difference")
    delta = make_delta(base, new)
    (folder / DELTA_FILE).write_bytes(delta.data)
    progress(0.7, "compare costs")
    costs = counterfactuals(base, new)
    return {
        "codec": delta.codec.value,
        "float32_full_bytes": costs.float32_full_bytes,
        "compressed_full_bytes": costs.compressed_full_bytes,
        "bsdiff4_float16_bytes": costs.bsdiff4_float16_bytes,
    }
