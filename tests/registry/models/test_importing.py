"""The door for trained networks: what is read, and how everything else is refused."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model_registry.architectures import architecture
from model_registry.contract.errors import ArtifactRefused, LimitExceeded, MalformedArtifact, Refusal, UnsupportedArtifact
from model_registry.models.checkpoints import Description, Weights, read_labels
from model_registry.models.deep_compression import read_deep_compression
from model_registry.models.files import read_file, write_file
from model_registry.models.importing import Format, import_file, read_checkpoint
from model_registry.models.safetensors_file import read_safetensors, write_safetensors
from tests.registry.networks import SMALL, foreign_onnx, random_weights


def with_header(header: dict[str, Any] | bytes, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def test_safetensors_come_back_bit_for_bit_in_order() -> None:
    weights: Weights = {
        "z": np.array([[-0.0, np.nan]], np.float32),
        "a": np.array(3.5, np.float32),
        "m": np.zeros(0, np.float32),
    }
    said = Description("squeezenet1_0", SMALL, ("stop", "go"), b"graph")
    found, description = read_safetensors(write_safetensors(weights, said))
    assert list(found) == list(weights)
    assert all(found[name].tobytes() == weights[name].tobytes() for name in weights)
    assert description == said


def test_the_common_library_reads_what_is_written() -> None:
    from safetensors.numpy import load

    weights = random_weights()
    assert {k: v.tobytes() for k, v in load(write_safetensors(weights, Description())).items()} == {
        k: v.tobytes() for k, v in weights.items()
    }


def test_half_precision_is_widened() -> None:
    halves = np.array([1.5, -2.0], "<f2").tobytes()
    brain = struct.pack("<2H", 0x3FC0, 0xC000)
    header = {"h": entry([2], 0, 4, "F16"), "b": entry([2], 4, 8, "BF16")}
    weights, _ = read_safetensors(with_header(header, halves + brain))
    assert weights["h"].tolist() == weights["b"].tolist() == [1.5, -2.0]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"abc", "too short"),
        (struct.pack("<Q", 2**63) + b"{}", "limit"),
        (struct.pack("<Q", 500) + b"{}", "truncated"),
        (with_header(b"[]"), "object"),
        (with_header(b'{"a":1,"a":2}'), "twice"),
        (with_header(b"[" * 5000), "not a safetensors file"),
        (with_header({"a": entry([2], 0, 8)}, b"\0" * 7), "truncated or damaged"),
        (with_header({"a": entry([2], 0, 8)}, b"\0" * 9), "truncated or damaged"),
        (with_header({"a": entry([2], 0, 4)}, b"\0" * 4), "size"),
        (with_header({"a": entry([2**31, 2**31, 2**31], 0, 4)}, b"\0" * 4), "size"),
        (with_header({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, b"\0" * 4), "overlaps"),
        (with_header({"a": entry([1], 4, 8)}, b"\0" * 8), "gap"),
        (with_header({"../x": entry([1], 0, 4)}, b"\0" * 4), "not allowed"),
        (with_header({"a": entry([1], 0, 8, "I64")}, b"\0" * 8), "not a float"),
        (with_header({"a": {"dtype": "F32"}}), "missing"),
        (with_header({f"t{i}": entry([0], 0, 0) for i in range(10_001)}), "tensors"),
        (with_header({"__metadata__": {"deltafleet": "{"}}), "unreadable"),
    ],
)
def test_hostile_safetensors_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ArtifactRefused, match=reason):
        read_safetensors(data)


def test_a_bit_flip_in_a_header_never_escapes_as_another_error() -> None:
    data = bytearray(write_safetensors({"a.weight": np.ones((2, 3), np.float32)}, Description()))
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(500):
        damaged = bytearray(data)
        damaged[int(rng.integers(len(data) - 24))] ^= 1 << int(rng.integers(8))
        try:
            read_safetensors(bytes(damaged))
        except Refusal:
            refused += 1
    assert refused > 300


def test_a_checkpoint_is_told_by_its_bytes_not_its_name(tmp_path: Path) -> None:
    named_wrong = foreign_onnx(tmp_path / "x.safetensors")
    assert read_checkpoint(named_wrong).description.architecture == "onnx"
    torch.save({"a": torch.zeros(1)}, tmp_path / "y.onnx")
    with pytest.raises(UnsupportedArtifact, match="pickle"):
        read_checkpoint(tmp_path / "y.onnx")


def test_an_onnx_file_keeps_its_graph_through_safetensors(tmp_path: Path) -> None:
    checkpoint = import_file(foreign_onnx(tmp_path / "f.onnx"), Format.ONNX)
    (tmp_path / "f.safetensors").write_bytes(write_safetensors(checkpoint.weights, checkpoint.description))
    again = read_checkpoint(tmp_path / "f.safetensors")
    assert again.description.graph == checkpoint.description.graph
    assert again.shapes == checkpoint.shapes


def test_a_torch_state_dict_is_read_and_recognised(tmp_path: Path) -> None:
    weights = random_weights()
    wrapped = {"state_dict": {f"module.{key}": torch.from_numpy(value) for key, value in weights.items()}, "epoch": 3}
    torch.save(wrapped, tmp_path / "model.pt")
    checkpoint = import_file(tmp_path / "model.pt", Format.TORCH)
    assert checkpoint.description.architecture == "squeezenet1_1"
    assert {k: v.tobytes() for k, v in checkpoint.weights.items()} == {k: v.tobytes() for k, v in weights.items()}


class Payload:
    """What an attacker puts into a pickle."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


def test_a_malicious_pickle_is_refused_and_does_nothing(tmp_path: Path) -> None:
    torch.save({"weight": Payload(tmp_path / "marker")}, tmp_path / "evil.pt")
    with pytest.raises(MalformedArtifact, match="not a torch checkpoint"):
        import_file(tmp_path / "evil.pt", Format.TORCH)
    assert not (tmp_path / "marker").exists()


def test_a_zip_bomb_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 50_000_000)
    with pytest.raises(ArtifactRefused, match="claims to hold"):
        import_file(tmp_path / "bomb.pt", Format.TORCH)


def test_a_checkpoint_that_takes_too_long_is_refused(tmp_path: Path) -> None:
    from model_registry.models.torch_checkpoint import read_torch_checkpoint

    torch.save({"weight": torch.zeros(1)}, tmp_path / "slow.pt")
    with pytest.raises(LimitExceeded, match="longer"):
        read_torch_checkpoint(tmp_path / "slow.pt", deadline_s=0.01)


def test_a_mislabelled_checkpoint_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(UnsupportedArtifact, match="safetensors"):
        import_file(checkpoint, Format.TORCH)
    with pytest.raises(MalformedArtifact, match="not an ONNX model"):
        import_file(checkpoint, Format.ONNX)
    with pytest.raises(MalformedArtifact, match="Deep Compression"):
        import_file(checkpoint, Format.DEEP_COMPRESSION)


def deep_compression_file(*, count: int = 2, gap: int = 0, first: float = 0.0, last: float = 2.0) -> bytes:
    """A file in the published format in which every layer names ``count`` entries."""
    shapes = architecture("squeezenet1_0").shapes
    parts = [struct.pack("<26I", *[count] * 26)]
    for key, shape in shapes.items():
        if key.endswith(".weight"):
            codebook = np.linspace(first, last, 256, dtype="<f4")
            packed = bytes([gap | gap << 4]) * ((count - 1) // 2 + 1)
            parts += [codebook.tobytes(), np.full(shape[0], 0.5, "<f4").tobytes(), bytes([255] * count), packed]
    return b"".join(parts)


def test_deep_compression_entries_land_where_the_gaps_say() -> None:
    weights, description = read_deep_compression(deep_compression_file(count=3, gap=2))
    flat = weights["features.0.weight"].ravel()
    assert np.flatnonzero(flat).tolist() == [2, 5, 8]
    assert flat[2] == 2.0
    assert weights["classifier.1.bias"].tolist() == [0.5] * 1000
    assert description.architecture == "squeezenet1_0"
    assert description.preprocessing is not None
    assert description.preprocessing.size == (227, 227)


def test_hostile_deep_compression_files_are_refused() -> None:
    good = deep_compression_file()
    bad = [
        good[:-1],
        good + b"\0",
        b"",
        struct.pack("<26I", *[2**32 - 1] * 26),
        deep_compression_file(first=1.0),
        deep_compression_file(last=float("nan")),
        # The first convolution of fire2 has 1,536 weights: 800 entries with gaps of 15 run past its end.
        deep_compression_file(count=800, gap=15),
    ]
    for data in bad:
        with pytest.raises(MalformedArtifact):
            read_deep_compression(data)


def test_labels_must_name_every_class_once() -> None:
    assert read_labels("class_index,name\n1,b\n0,a\n") == ("a", "b")
    for text in ("", "name\na\n", "class_index,name\n1,b\n", "class_index,name\n0,a\n0,b\n1,c\n", "class_index,name\nx,b\n"):
        with pytest.raises(MalformedArtifact):
            read_labels(text)


def test_files_are_read_with_a_cap(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * 11)
    with pytest.raises(LimitExceeded):
        read_file(tmp_path / "big", max_bytes=10)
    for missing in (tmp_path / "none", tmp_path):
        with pytest.raises(MalformedArtifact):
            read_file(missing, max_bytes=10)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(Refusal, match="cannot be written"):
        write_file(tmp_path / "taken", b"data")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
    with pytest.raises(Refusal, match="cannot be written"):
        write_file(tmp_path / "absent" / "file", b"data")
