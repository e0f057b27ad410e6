"""Mutated artifacts against the decoders, in a process with little memory: ``python -m tests.contract.fuzzing N SEED``.

A mutation is shallow (bytes of the file) or deep (the head is decompressed, mutated and packed again, so that the mutation gets
past zstd). Every answer but a Refusal ends the process with an error: other exceptions, crashes, memory above the bound.
"""

from __future__ import annotations

import random
import resource
import struct
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from model_registry.contract.codecs.sections import compress, decompress
from model_registry.contract.content import ByteReader, Content
from model_registry.contract.delta import Codec, apply_delta
from model_registry.contract.errors import Refusal
from model_registry.contract.full import decode_full, encode_full
from model_registry.contract.limits import DEFAULT_LIMITS, MIB
from model_registry.deltas import make_delta
from tests.contract.contents import small_network
from tests.contract.hostile.deltas import hostile_deltas
from tests.contract.hostile.forging import head_of
from tests.contract.hostile.fulls import hostile_fulls

MEMORY_ABOVE_START = 64 * MIB
LIMITS = replace(DEFAULT_LIMITS, max_content_bytes=MIB)
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)

Decode = Callable[[bytes], Content]


def main() -> None:
    """Fuzz every decoder; prints how many mutants were refused and how many (harmless ones) decoded."""
    count, seed = int(sys.argv[1]), int(sys.argv[2])
    base, new = small_network(), small_network(version="1.0.1", seed=2)
    fulls, deltas = list(hostile_fulls()), list(hostile_deltas())
    seeds: list[tuple[str, bytes, int, bytes, Decode]] = [("full", encode_full(base), 44, b"", _decode_full)]
    for codec in Codec:
        dictionary = head_of(base) if codec is Codec.MODEL else b""
        data = make_delta(base, new, codec).data
        seeds.append((codec, data, 77, dictionary, partial(_apply, base)))
    _limit_memory()
    assert all(_refused(_decode_full, hostile.data) for hostile in fulls)
    assert all(_refused(partial(_apply, base), hostile.data) for hostile in deltas)
    for name, data, header, dictionary, decode in seeds:
        rng = random.Random(f"{seed} {name}")
        deep = name in ("full", Codec.MODEL)
        mutants = (_deep(rng, data, header, dictionary) if deep and i % 2 else _shallow(rng, data) for i in range(count))
        refused = sum(_refused(decode, mutant) for mutant in mutants)
        sys.stdout.write(f"{name}: {refused} of {count} refused\n")


def _decode_full(data: bytes) -> Content:
    return decode_full(data, LIMITS)


def _apply(base: Content, data: bytes) -> Content:
    return apply_delta(base, data, LIMITS)


def _refused(decode: Decode, data: bytes) -> bool:
    try:
        decode(data)
    except Refusal:
        return True
    return False


def _shallow(rng: random.Random, data: bytes) -> bytes:
    mutant = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(mutant) + 1)
        match rng.randrange(6):
            case 0:
                mutant[at : at + 1] = bytes(b ^ (1 << rng.randrange(8)) for b in mutant[at : at + 1])
            case 1:
                mutant[at : at + 1] = bytes([rng.randrange(256)])
            case 2:
                mutant[at : at + 4] = struct.pack("<I", rng.choice(INTERESTING))
            case 3:
                del mutant[at : at + rng.randrange(1, 20)]
            case 4:
                mutant[at:at] = mutant[: rng.randrange(20)]
            case _:
                del mutant[max(at, 1) :]
    return bytes(mutant)


def _deep(rng: random.Random, data: bytes, header: int, dictionary: bytes) -> bytes:
    reader = ByteReader(data[header:])
    head = decompress(reader.block("I", len(data)), max_bytes=MIB, dictionary=dictionary)
    blob, words = reader.block("I", len(data)), reader.rest()
    match rng.randrange(4):
        case 0:
            blob = _shallow(rng, blob)
        case 1:
            words = _shallow(rng, words)
            words = words[: len(words) // 4 * 4]
        case _:
            head = _shallow(rng, head)
    frame = compress(head, level=1, dictionary=dictionary)
    parts = [struct.pack("<I", len(frame)), frame, struct.pack("<I", len(blob)), blob, words]
    return data[:header] + b"".join(parts)


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    bound = pages * resource.getpagesize() + MEMORY_ABOVE_START
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))


if __name__ == "__main__":
    main()
