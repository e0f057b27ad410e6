"""The three parts of an artifact's payload: a zstd-compressed head, plain bytes, and one stream of entropy-coded symbols.

    length, head (zstd frame without its first four bytes, which all frames have) | length, blob | symbol stream to the end

A length takes a byte where it is below 128. In payloads of the first form lengths are u32, and frames whole.
"""

from __future__ import annotations

import zstandard

from model_registry.contract.codecs.pools import Changes, Pending, read_pools, write_pools
from model_registry.contract.content import ByteReader
from model_registry.contract.entropy import COST_UNIT, SymbolReader, SymbolWriter
from model_registry.contract.errors import LimitExceeded, MalformedArtifact

HEAD_LEVEL = 19
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
MAX_WINDOW_LOG = 31


class Sink:
    """Where an encoder puts symbols, plain bytes, and sparse changes, which become symbols behind all others."""

    def __init__(self) -> None:
        self.symbols = SymbolWriter()
        self.blob = bytearray()
        self.changes: list[Changes] = []

    @property
    def cost(self) -> int:
        """In 1/65536 bit."""
        return self._all_symbols().cost + len(self.blob) * 8 * COST_UNIT

    def extend(self, other: Sink) -> None:
        self.symbols.extend(other.symbols)
        self.blob += other.blob
        self.changes += other.changes

    def pack(self, head: bytes, *, dictionary: bytes = b"") -> bytes:
        frame = compress(head, level=HEAD_LEVEL, dictionary=dictionary).removeprefix(ZSTD_MAGIC)
        sizes = short_length(len(frame)), short_length(len(self.blob))
        return b"".join([sizes[0], frame, sizes[1], self.blob, self._all_symbols().finish()])

    def _all_symbols(self) -> SymbolWriter:
        symbols = SymbolWriter()
        symbols.extend(self.symbols)
        write_pools(symbols, self.changes)
        return symbols


class Source:
    """Where a decoder takes symbols and plain bytes from, in the order in which they were put.

    Blocks whose changes come behind all other symbols are ``pending`` until the end.
    """

    def __init__(self, blob: bytes, symbols: SymbolReader) -> None:
        self.blob = ByteReader(blob)
        self.symbols = symbols
        self.pending: list[Pending] = []

    def end(self) -> None:
        """Fill in what is pending. Raises MalformedArtifact, also where anything is left over."""
        read_pools(self.symbols, self.pending)
        self.blob.end()
        self.symbols.end()


def unpack(payload: bytes, *, max_head_bytes: int, dictionary: bytes = b"") -> tuple[bytes, Source]:
    """The head and the source of a payload. Raises MalformedArtifact, LimitExceeded."""
    reader = ByteReader(payload)
    frame = ZSTD_MAGIC + reader.take(read_short_length(reader))
    head = decompress(frame, max_bytes=max_head_bytes, dictionary=dictionary)
    blob = reader.take(read_short_length(reader))
    return head, Source(blob, SymbolReader(reader.rest()))


def unpack_first(payload: bytes, *, max_head_bytes: int, dictionary: bytes = b"") -> tuple[bytes, Source]:
    """The same of the first form."""
    reader = ByteReader(payload)
    head = decompress(reader.block("I", len(payload)), max_bytes=max_head_bytes, dictionary=dictionary)
    blob = reader.block("I", len(payload))
    return head, Source(blob, SymbolReader(reader.rest(), laws=False))


def short_length(size: int) -> bytes:
    """Seven bits a byte, low ones first; the top bit says that more follow (LEB128)."""
    low, more = size & 0x7F, size >> 7
    return bytes([low]) if not more else bytes([low | 0x80]) + short_length(more)


def read_short_length(reader: ByteReader) -> int:
    """The inverse of ``short_length``, of at most 32 bits. Raises MalformedArtifact."""
    size = 0
    for shift in range(0, 35, 7):
        byte = reader.number("B")
        size |= (byte & 0x7F) << shift
        if byte < 0x80:
            # One way to write a length, so that there is one artifact for a delta.
            if size >> 32 or (shift and not byte):
                break
            return size
    raise MalformedArtifact("a length is not written as it should be")


def compress(data: bytes, *, level: int, dictionary: bytes = b"") -> bytes:
    """One zstd frame with its content size, without checksum. The window spans dictionary and data."""
    window_log = min(MAX_WINDOW_LOG, max(10, (len(dictionary) + len(data)).bit_length()))
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level,
        source_size=len(data),
        dict_size=len(dictionary),
        window_log=window_log,
        enable_ldm=len(dictionary) > 0,
        write_content_size=True,
        write_checksum=False,
        write_dict_id=False,
    )
    compressor = zstandard.ZstdCompressor(dict_data=_dictionary(dictionary), compression_params=parameters)
    return compressor.compress(data)


def decompress(frame: bytes, *, max_bytes: int, dictionary: bytes = b"") -> bytes:
    """Undo ``compress``. The size that the frame declares is checked before memory is taken; no frame may follow."""
    try:
        declared = zstandard.get_frame_parameters(frame).content_size
        if declared == zstandard.CONTENTSIZE_UNKNOWN:
            raise MalformedArtifact("a zstd frame does not say how long its content is")
        if declared > max_bytes:
            raise LimitExceeded(f"a zstd frame of {declared} bytes is above the {max_bytes} that can be in it")
        decompressor = zstandard.ZstdDecompressor(dict_data=_dictionary(dictionary))
        data = decompressor.decompress(frame, max_output_size=declared, allow_extra_data=False)
        # Of a frame that declares nothing the library looks at no more than the head.
        if not declared and not _is_empty_frame(decompressor, frame):
            raise MalformedArtifact("a zstd frame that declares nothing is no such frame, or more follows it")
    except zstandard.ZstdError as exc:
        raise MalformedArtifact(f"a zstd frame is unreadable: {exc}") from exc
    if len(data) != declared:
        raise MalformedArtifact("a zstd frame has another length than it declares")
    return data


def decompress_to(frame: bytes, *, size: int, dictionary: bytes = b"") -> bytes:
    """As ``decompress``, to ``size`` bytes and no fewer."""
    data = decompress(frame, max_bytes=size, dictionary=dictionary)
    if len(data) != size:
        raise MalformedArtifact(f"a zstd frame makes {len(data)} bytes where {size} belong")
    return data


def _is_empty_frame(decompressor: zstandard.ZstdDecompressor, frame: bytes) -> bool:
    reading = decompressor.decompressobj()
    return not reading.decompress(frame) and reading.eof and not reading.unused_data


def _dictionary(data: bytes) -> zstandard.ZstdCompressionDict | None:
    return zstandard.ZstdCompressionDict(data, dict_type=zstandard.DICT_TYPE_RAWCONTENT) if data else None
