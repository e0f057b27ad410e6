"""The published Deep Compression file of SqueezeNet 1.0: 8-bit codebooks and 4-bit gaps between the weights that were kept.

Little-endian, no header: 26 x u32 counts of coded entries; then for each convolution 256 x f32 codebook, f32 biases, one u8
index an entry, and the gaps, two to a byte, low nibble first. An entry's place is the running sum of gap + 1, minus one;
other places are entry 0 of the codebook, which is zero. Every length follows from the counts: the file's size is checked first.
"""

from __future__ import annotations

import math

import numpy as np

from model_registry.architectures import architecture
from model_registry.contract.content import ByteReader
from model_registry.contract.errors import MalformedArtifact
from model_registry.contract.preprocessing import Preprocessing
from model_registry.models.checkpoints import Description, Weights

NETWORK = "squeezenet1_0"
ENTRIES = 256
# What the network was trained with: ImageNet's mean colour, blue first.
PREPROCESSING = Preprocessing((256, 256), (227, 227), "BGR", (104.0, 117.0, 123.0), (1.0, 1.0, 1.0))


def read_deep_compression(data: bytes) -> tuple[Weights, Description]:
    """The float32 weights, bit for bit as the file's codebooks hold them. Raises MalformedArtifact."""
    shapes = architecture(NETWORK).shapes
    keys = [key.removesuffix(".weight") for key in shapes if key.endswith(".weight")]
    reader = ByteReader(data)
    counts = [reader.number("I") for _ in keys]
    sizes = [math.prod(shapes[f"{key}.weight"]) for key in keys]
    expected = 4 * len(keys) + sum(
        4 * ENTRIES + 4 * shapes[f"{key}.bias"][0] + count + _gap_bytes(count) for key, count in zip(keys, counts, strict=True)
    )
    if any(not 0 < count <= size for count, size in zip(counts, sizes, strict=True)) or expected != len(data):
        raise MalformedArtifact("not the Deep Compression file of SqueezeNet 1.0: its size does not follow from its counts")
    weights: Weights = {}
    for key, count in zip(keys, counts, strict=True):
        weight, bias = f"{key}.weight", f"{key}.bias"
        weights |= _read_layer(reader, count, (weight, shapes[weight]), (bias, shapes[bias]))
    reader.end()
    return weights, Description(NETWORK, PREPROCESSING)


def _read_layer(
    reader: ByteReader, count: int, weight: tuple[str, tuple[int, ...]], bias: tuple[str, tuple[int, ...]]
) -> Weights:
    codebook = np.frombuffer(reader.take(4 * ENTRIES), "<f4")
    biases = np.frombuffer(reader.take(4 * bias[1][0]), "<f4").astype(np.float32)
    if not (np.isfinite(codebook).all() and np.isfinite(biases).all()) or codebook[0] != 0:
        raise MalformedArtifact(f"the codebook or the biases of {weight[0]} are not finite, or entry 0 is not zero")
    entries = np.frombuffer(reader.take(count), np.uint8)
    packed = np.frombuffer(reader.take(_gap_bytes(count)), np.uint8)
    gaps = np.stack([packed & 15, packed >> 4], axis=1).reshape(-1)[:count]
    places = np.cumsum(gaps.astype(np.int64) + 1) - 1
    if places[-1] >= math.prod(weight[1]):
        raise MalformedArtifact(f"an entry of {weight[0]} lies beyond its end")
    indices = np.zeros(math.prod(weight[1]), np.uint8)
    indices[places] = entries
    return {weight[0]: codebook[indices].astype(np.float32).reshape(weight[1]), bias[0]: biases}


def _gap_bytes(count: int) -> int:
    return (count - 1) // 2 + 1 if count else 0
