"""The general tools that a fleet could use instead, each at its smallest setting that takes seconds and not minutes.

brotli and xz know no base here: what they make of the new version alone is what a fleet without a differ would send.
"""

from __future__ import annotations

import lzma
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from importlib import import_module, metadata
from io import BytesIO
from pathlib import Path
from typing import Any

from model_registry.bench.coders import Coder, CoderMissing
from model_registry.contract.limits import MIB

TOOL_DEADLINE_S = 600
MAX_RESULT_BYTES = 1024 * MIB
ZSTD_LEVEL = 22


def _package(name: str) -> Callable[[], str]:
    def version() -> str:
        try:
            import_module(name)
            return metadata.version(name)
        except (ImportError, metadata.PackageNotFoundError) as exc:
            raise CoderMissing(f"the package {name} is not installed") from exc

    return version


def _module(name: str) -> Any:
    """Peers are loaded by name when they are used: none is a dependency of the product but for its own codecs."""
    return import_module(name)


def _bsdiff4_encode(base: bytes, new: bytes) -> bytes:
    return bytes(_module("bsdiff4").diff(base, new))


def _bsdiff4_decode(base: bytes, data: bytes) -> bytes:
    return bytes(_module("bsdiff4").patch(base, data))


def _zstd_encode(base: bytes, new: bytes) -> bytes:
    zstandard = _module("zstandard")
    window_log = min(max((len(base) + len(new)).bit_length(), 10), 27)
    settings = zstandard.ZstdCompressionParameters.from_level(ZSTD_LEVEL, window_log=window_log, enable_ldm=True)
    dictionary = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT) if base else None
    return bytes(zstandard.ZstdCompressor(compression_params=settings, dict_data=dictionary).compress(new))


def _zstd_decode(base: bytes, data: bytes) -> bytes:
    zstandard = _module("zstandard")
    dictionary = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT) if base else None
    reader = zstandard.ZstdDecompressor(dict_data=dictionary, max_window_size=2**27)
    return bytes(reader.decompress(data, max_output_size=MAX_RESULT_BYTES))


def _hdiffpatch_encode(base: bytes, new: bytes) -> bytes:
    """One search for matches, packed by each of its compressors, the smallest kept."""
    library = _module("hdiffpatch")
    plain = library.diff(base, new, validate=False)
    packers = (library.COMPRESSION_LZMA2, library.COMPRESSION_BROTLI, library.COMPRESSION_ZSTD, library.COMPRESSION_BZIP2)
    return bytes(min((library.recompress(plain, packer) for packer in packers), key=len))


def _hdiffpatch_decode(base: bytes, data: bytes) -> bytes:
    return bytes(_module("hdiffpatch").apply(base, data))


def _detools_encode(base: bytes, new: bytes) -> bytes:
    patch = BytesIO()
    _module("detools").create_patch(BytesIO(base), BytesIO(new), patch, compression="lzma", use_mmap=False)
    return patch.getvalue()


def _detools_decode(base: bytes, data: bytes) -> bytes:
    new = BytesIO()
    _module("detools").apply_patch(BytesIO(base), BytesIO(data), new)
    return new.getvalue()


def _xdelta3_version() -> str:
    if shutil.which("xdelta3") is None:
        raise CoderMissing("the program xdelta3 is not installed")
    seen = subprocess.run(["xdelta3", "-V"], capture_output=True, text=True, timeout=TOOL_DEADLINE_S, check=False)  # noqa: S607
    return (seen.stdout + seen.stderr).splitlines()[0].removeprefix("Xdelta version ").split(",")[0]


def _xdelta3_encode(base: bytes, new: bytes) -> bytes:
    # -B: the whole base is searched; -S lzma: the second stage that packs tightest.
    window = str(max(len(base), 16 * MIB))
    return _xdelta3(["-e", "-9", "-S", "lzma", "-B", window, "-W", str(16 * MIB)], base, new)


def _xdelta3_decode(base: bytes, data: bytes) -> bytes:
    return _xdelta3(["-d", "-B", str(max(len(base), 16 * MIB))], base, data)


def _xdelta3(options: list[str], base: bytes, data: bytes) -> bytes:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "base").write_bytes(base)
        (folder / "in").write_bytes(data)
        command = ["xdelta3", *options, "-s", str(folder / "base"), str(folder / "in"), str(folder / "out")]
        subprocess.run(command, check=True, capture_output=True, timeout=TOOL_DEADLINE_S)
        return (folder / "out").read_bytes()


def _brotli_encode(base: bytes, new: bytes) -> bytes:  # noqa: ARG001
    return bytes(_module("brotli").compress(new, quality=11, lgwin=24))


def _brotli_decode(base: bytes, data: bytes) -> bytes:  # noqa: ARG001
    return bytes(_module("brotli").decompress(data))


def _xz_encode(base: bytes, new: bytes) -> bytes:  # noqa: ARG001
    return lzma.compress(new, preset=9 | lzma.PRESET_EXTREME)


def _xz_decode(base: bytes, data: bytes) -> bytes:  # noqa: ARG001
    return lzma.decompress(data)


PEERS = (
    Coder("bsdiff4", _package("bsdiff4"), _bsdiff4_encode, _bsdiff4_decode),
    Coder("zstd --patch-from", _package("zstandard"), _zstd_encode, _zstd_decode),
    Coder("xdelta3", _xdelta3_version, _xdelta3_encode, _xdelta3_decode),
    Coder("HDiffPatch", _package("hdiffpatch"), _hdiffpatch_encode, _hdiffpatch_decode),
    Coder("detools", _package("detools"), _detools_encode, _detools_decode),
    Coder("brotli", _package("brotli"), _brotli_encode, _brotli_decode, uses_base=False),
    Coder("xz", lambda: "the standard library's", _xz_encode, _xz_decode, uses_base=False),
)
