"""Artifacts of format version 1, kept for good: what was published once must decode for ever.

``python -m tests.contract.golden_files`` writes those that are missing. Never overwrite one: a new coder gets a new file.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from model_registry.contract.content import Content
from model_registry.contract.delta import Codec
from model_registry.contract.full import encode_full
from model_registry.contract.tensors import EncodedTensor
from model_registry.deltas import make_delta
from tests.contract.contents import small_network, sparse_codebook

FOLDER = Path(__file__).parent / "golden"
# By name the codec; model.dfd is of before there were sparse changes.
DELTAS = {f"{codec}.dfd": codec for codec in Codec} | {"sparse.dfd": Codec.MODEL}


def base() -> Content:
    return small_network()


def new() -> Content:
    """A successor with changed indices, moved steps, a longer head, a tensor less and a tensor more."""
    old = base()
    first, bias, rows, *rest = old.tensors
    values = first.values.copy()
    values[3, :, 0, 0] = 5
    changed = EncodedTensor(first.name, first.encoding, values, first.scale)
    moved = EncodedTensor(rows.name, rows.encoding, rows.values, rows.scale * 2)
    added = sparse_codebook("head.weight", (6, 50), seed=3)
    return Content(replace(old.manifest, version="1.1.0"), b"another graph", (changed, bias, moved, *rest[:-1], added))


def main() -> None:
    """Write the missing files."""
    files = {"base.dfc": base().data, "new.dfc": new().data, "base.dfm": encode_full(base())}
    files |= {name: make_delta(base(), new(), codec).data for name, codec in DELTAS.items()}
    for name, data in files.items():
        if not (FOLDER / name).exists():
            (FOLDER / name).write_bytes(data)


if __name__ == "__main__":
    main()
