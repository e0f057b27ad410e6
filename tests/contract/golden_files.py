"""Artifacts of both forms, kept for good: what was published once must decode for ever.

Those of the first form were made before there was a second one, and cannot be made any more; names of the others end in -2.

``python -m tests.contract.golden_files`` writes those that are missing. Never overwrite one: a new coder gets a new file.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model_registry.contract.codecs.differences import encode_differences
from model_registry.contract.codecs.heads import ContentHead
from model_registry.contract.codecs.integers import IntegerView
from model_registry.contract.codecs.model import pack
from model_registry.contract.codecs.prediction import predict
from model_registry.contract.codecs.scales import encode_scale
from model_registry.contract.codecs.sections import Sink
from model_registry.contract.codecs.sparse import CODERS, encode_sparse
from model_registry.contract.codecs.tensor_coding import moves_of
from model_registry.contract.content import Content
from model_registry.contract.delta import Codec, DeltaHeader
from model_registry.contract.full import encode_full
from model_registry.contract.tensors import EncodedTensor, Encoding
from model_registry.deltas import make_delta
from tests.contract.contents import content, shifted, small_network, sparse_codebook, tensor

FOLDER = Path(__file__).parent / "golden"
FORMS = ("", "-2")
# model.dfd is of before there were sparse changes.
DELTAS = [*(f"{codec}{form}.dfd" for codec in Codec for form in FORMS), "sparse.dfd"]
# Contents of their own, and the numbers of their coders.
SPARSE = {"sparse": range(48, 60), "pruned": range(60, 62), "directed": range(62, 70), "by-moves": range(70, 78)}
# All that changes, by names of contents: of both forms where they are that old.
CHANGES = [(name, form) for name in SPARSE for form in FORMS if form or name != "by-moves"] + [("differences", "-2")]


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


def sparse_ways(numbers: range) -> tuple[Content, Content, bytes]:
    """A base, its successor, and a delta in which every sparse coder with one of these numbers has a tensor."""
    rng = np.random.default_rng(5)
    old, fresh, coders, sink = [], [], list[bytes](), Sink()
    for seed, coder in enumerate(coder for coder in CODERS if coder.number in numbers):
        before = sparse_codebook(f"w{coder.number}", (40, 8, 3, 3), seed=seed)
        values = np.where(rng.random(before.shape) < rng.choice([0.03, 0.8]), before.values ^ 1, before.values)
        after = EncodedTensor(before.name, before.encoding, values, before.scale)
        if coder.by_weight:
            before = tensor(before.name, Encoding.GRID16, np.rint(before.dequantize() * 50), [0.02])
        scale_number, scale = encode_scale(after.scale)
        sink.extend(scale)
        own_numbers = [scale_number, coder.number]
        if coder.by_moves:
            before, after = (shifted(own, rng.integers(-99, 100, (1, 40)) * 2.0**-13) for own in (before, after))
            offsets_number, offsets = encode_scale(after.offsets[0], before.offsets[0])
            sink.extend(offsets)
            own_numbers.append(offsets_number)
        prediction = predict(before, IntegerView(after.encoding, after.scale), after.shape, by_weight=coder.by_weight)
        assert prediction is not None
        moves = moves_of(before, after.offsets, after.shape)
        sink.extend(dict(encode_sparse(prediction, after.values, moves, by_weight=coder.by_weight))[coder.number])
        coders.append(bytes(own_numbers))
        old.append(before)
        fresh.append(after)
    base, new = content(*old), content(*fresh, version="1.1.0")
    return base, new, _delta(base, new, coders, sink)


def differences_ways() -> tuple[Content, Content, bytes]:
    """The same of small tensors whose differences are numbers: by integer and by weight, of each kind of integers."""
    rng = np.random.default_rng(7)
    old, fresh, coders, sink = list[EncodedTensor](), list[EncodedTensor](), list[bytes](), Sink()
    for encoding, scale in ((Encoding.GRID8, [0.5]), (Encoding.GRID16, [0.25]), (Encoding.CODEBOOK, np.arange(90) / 8 - 5)):
        for by_weight in (False, True):
            low, high = (0, 90) if encoding is Encoding.CODEBOOK else (-60, 60)
            before, after = (tensor(f"b{len(old)}", encoding, rng.integers(low, high, 70), scale) for _ in range(2))
            if by_weight:
                before = tensor(before.name, Encoding.FLOAT16, before.dequantize())
            scale_number, coded = encode_scale(after.scale)
            prediction = predict(before, IntegerView(encoding, after.scale), after.shape, by_weight=by_weight)
            assert prediction is not None
            number, part = encode_differences(prediction, after.values, by_weight=by_weight)
            sink.extend(coded)
            sink.extend(part)
            coders.append(bytes([scale_number, number]))
            old.append(before)
            fresh.append(after)
    base, new = content(*old), content(*fresh, version="1.1.0")
    return base, new, _delta(base, new, coders, sink)


def _delta(base: Content, new: Content, coders: list[bytes], sink: Sink) -> bytes:
    header = DeltaHeader(Codec.MODEL, base.sha256, new.sha256, len(new.data)).to_bytes()
    return header + pack(base, ContentHead.of(new), coders, sink)


def shifted_ways() -> tuple[Content, Content]:
    """Offsets that are new, that moved, that stay, that go, with rows added, and floats that were shifted rows."""
    rng = np.random.default_rng(6)

    def rows(shape: tuple[int, int]) -> npt.NDArray[np.float32]:
        return np.asarray(rng.integers(-9, 10, shape) * 2.0**-11, np.float32)

    plain = {
        name: sparse_codebook(name, (12, 40), seed=seed)
        for seed, name in enumerate(("fresh", "moved", "kept", "gone", "grown", "floats"))
    }
    before = {name: own if name == "fresh" else shifted(own, rows((1 + (name != "moved"), 12))) for name, own in plain.items()}
    grown = sparse_codebook("grown", (15, 40), seed=9)
    after = {
        "fresh": shifted(plain["fresh"], rows((2, 12))),
        "moved": shifted(plain["moved"], np.concatenate([before["moved"].offsets + rows((1, 12)), rows((1, 12))])),
        "kept": before["kept"],
        "gone": plain["gone"],
        "grown": shifted(grown, rows((2, 15))),
        "floats": tensor("floats", Encoding.FLOAT32, before["floats"].dequantize() * np.float32(1.001)),
    }
    return content(*before.values()), content(*after.values(), version="1.1.0")


def main() -> None:
    """Write the missing files."""
    files = {"base.dfc": base().data, "new.dfc": new().data, "base-2.dfm": encode_full(base())}
    ways = {name: sparse_ways(numbers) for name, numbers in SPARSE.items()} | {"differences": differences_ways()}
    for name, (known, fresh, delta) in ways.items():
        files |= {f"{name}-base.dfc": known.data, f"{name}-new.dfc": fresh.data, f"every-{name}-2.dfd": delta}
    files |= {f"{codec}-2.dfd": make_delta(base(), new(), codec).data for codec in Codec}
    known, fresh = shifted_ways()
    files |= {"shifted-base.dfc": known.data, "shifted-new.dfc": fresh.data, "shifted-2.dfm": encode_full(fresh)}
    files["shifted-2.dfd"] = make_delta(known, fresh, Codec.MODEL).data
    for name, data in files.items():
        if not (FOLDER / name).exists():
            (FOLDER / name).write_bytes(data)


if __name__ == "__main__":
    main()
