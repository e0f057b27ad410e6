"""Entropy coding of symbols with transmitted integer frequencies: one asymmetric-numeral-systems stack for a whole artifact.

**No float decides a symbol.** The coder is constriction's ``AnsCoder`` (32-bit words, 64-bit state, probabilities in units of
2^-24). Its ``Categorical(perfect=False)`` turns float32 weights p into the cumulative ``trunc(sum(p before i) * (2^24 - n) /
sum(p)) + i``. We hand it p = frequency - 1 where the n frequencies are integers that sum to 2^24: then sum(p) is exactly
2^24 - n, the factor is exactly 1, every partial sum is an integer below 2^24 and thus exact in float32, and what comes out is
the running sum of our own integers. No step rounds, so the result cannot depend on a machine; the tests decode the same
streams with an integer-only decoder. Frequencies themselves are made from transmitted tokens by integer arithmetic
(``Table.from_weights``). The byte-for-byte rules are in docs/container-format.md.

Contexts are partitions: symbols are grouped by a context that the reader already knows, each group has its own table.
Streams are hostile until the content's digest is checked: any words decode to *some* symbols, counts come from the caller, and
no value read here sets the size of an allocation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import constriction
import numpy as np
import numpy.typing as npt

from model_registry.contract.errors import MalformedArtifact

Integers = npt.NDArray[np.integer[Any]]
AnsCoder = constriction.stream.stack.AnsCoder
Categorical = constriction.stream.model.Categorical
Uniform = constriction.stream.model.Uniform

PRECISION_BITS = 24
TOTAL = 1 << PRECISION_BITS
MAX_ALPHABET = 4096
MAX_BITS = 16
# The coder answers in int32: decoding piecewise keeps that copy small beside the tensor it fills.
CHUNK = 1 << 18

# A weight is coded as a token: floating-point-like levels with 0 to 3 bits of mantissa, below 2^24.
WEIGHT_BITS = 24
# How a table's tokens differ from one symbol to the next: four fixed two-sided geometric laws, ratio in 64ths.
RATIOS = (1, 16, 38, 53)
LEAST_PRIOR_WEIGHT = 64
COST_UNIT = 1 << 16


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Integer ``frequencies`` of the symbols 0..n-1 (n >= 2), each at least 1, with the sum 2^24."""

    frequencies: npt.NDArray[np.int64]

    @classmethod
    def from_weights(cls, weights: npt.NDArray[np.int64]) -> Table:
        """Scale integer weights (each below 2^24, at most 4,096 of them) to the total; all zero means all equal."""
        count = weights.size
        running = np.concatenate([[0], np.cumsum(weights if weights.any() else np.ones_like(weights))])
        bounds = np.arange(count + 1) + running * (TOTAL - count) // running[-1]
        return cls(np.diff(bounds))

    def costs(self) -> npt.NDArray[np.int64]:
        """What each symbol costs, in 1/65536 bit."""
        bits: npt.NDArray[np.float64] = PRECISION_BITS - np.log2(self.frequencies)
        return np.rint(bits * COST_UNIT).astype(np.int64)

    def model(self) -> Any:
        return Categorical((self.frequencies - 1).astype(np.float32), perfect=False)


def token_weights(mantissa_bits: int) -> npt.NDArray[np.int64]:
    """The weight of every token: 0, 1, 2, ... and from 2^m on with m + 1 significant bits, up to 2^24."""
    step = 1 << mantissa_bits
    above = np.arange(step * (WEIGHT_BITS - mantissa_bits), dtype=np.int64)
    return np.concatenate([np.arange(step), (step + above % step) << (above // step)])


@cache
def _prior(ratio: int, size: int) -> Table:
    """The fixed table of token differences, zigzag-coded: weight 2^20 * (ratio/64)^k, rounded down at every step."""
    weights, weight = [], 1 << 20
    for _ in range(size):
        weights.append(max(weight, LEAST_PRIOR_WEIGHT))
        weight = weight * ratio // 64
    return Table.from_weights(np.array(weights, np.int64))


def zigzag(values: Integers) -> npt.NDArray[np.int64]:
    """0, -1, 1, -2, 2 ... -> 0, 1, 2, 3, 4 ..."""
    wide = values.astype(np.int64)
    return (wide << 1) ^ (wide >> 63)


def unzigzag(values: Integers) -> npt.NDArray[np.int64]:
    """The inverse of ``zigzag``."""
    wide = values.astype(np.int64)
    return (wide >> 1) ^ -(wide & 1)


class SymbolWriter:
    """Collects symbols in reading order; ``cost`` (1/65536 bit) lets an encoder compare ways before it commits to one."""

    def __init__(self) -> None:
        self._steps: list[tuple[npt.NDArray[np.int32], Table | int]] = []
        self.cost = 0

    def symbols(self, values: Integers, table: Table) -> None:
        """Append symbols under a table that the reader has."""
        flat = np.ascontiguousarray(values.ravel(), np.int32)
        self.cost += int(table.costs() @ np.bincount(flat, minlength=table.frequencies.size))
        self._steps.append((flat, table))

    def bits(self, values: Integers, width: int) -> None:
        """Append plain numbers of ``width`` bits, 0 to 16."""
        if width:
            self.cost += values.size * width * COST_UNIT
            self._steps.append((np.ascontiguousarray(values.ravel(), np.int32), width))

    def table(self, histogram: Integers) -> Table:
        """Append the table that codes ``histogram`` with the fewest bits, itself included."""
        counts = histogram.astype(np.int64) >> max(0, int(histogram.max(initial=0)).bit_length() - WEIGHT_BITS)
        counts = np.where((counts == 0) & (histogram > 0), 1, counts)
        best, table = min(
            (self._table_candidate(counts, histogram, form) for form in range(17)), key=lambda candidate: candidate[0].cost
        )
        self.extend(best)
        # The estimate above counted the histogram's own cost; it is counted for real when its symbols are written.
        self.cost -= int(table.costs() @ histogram.astype(np.int64))
        return table

    def _table_candidate(self, counts: npt.NDArray[np.int64], histogram: Integers, form: int) -> tuple[SymbolWriter, Table]:
        flat = form == 16
        mantissa_bits, ratio = (0, 0) if flat else divmod(form, 4)
        levels = token_weights(mantissa_bits)
        tokens = np.zeros_like(counts) if flat else _nearest(levels, counts)
        writer = SymbolWriter()
        writer.bits(np.array([mantissa_bits * 4 + ratio]), 4)
        writer.symbols(zigzag(np.diff(tokens, prepend=0)), _prior(RATIOS[ratio], 2 * levels.size))
        table = Table.from_weights(levels[tokens])
        writer.cost += int(table.costs() @ histogram.astype(np.int64))
        return writer, table

    def extend(self, other: SymbolWriter) -> None:
        self._steps += other._steps
        self.cost += other.cost

    def finish(self) -> bytes:
        """The stream. The last symbol goes onto the stack first, so that a reader takes them in order."""
        coder = AnsCoder()
        for values, model in reversed(self._steps):
            coder.encode_reverse(values, model.model() if isinstance(model, Table) else Uniform(1 << model))
        return bytes(np.asarray(coder.get_compressed(), "<u4").tobytes())


class SymbolReader:
    """Takes symbols off a stream. Raises MalformedArtifact; never reads beyond it, never allocates by what it reads."""

    def __init__(self, data: bytes) -> None:
        if len(data) % 4:
            raise MalformedArtifact("the symbol stream is not made of 32-bit words")
        with _coder_refusals():
            self._coder = AnsCoder(np.frombuffer(data, "<u4").astype(np.uint32))

    def symbols(self, table: Table, count: int, dtype: npt.DTypeLike = np.int32) -> npt.NDArray[Any]:
        return self._decode(table.model(), count, dtype)

    def bits(self, count: int, width: int) -> npt.NDArray[np.int64]:
        if not width:
            return np.zeros(count, np.int64)
        return self._decode(Uniform(1 << width), count, np.int64)

    def table(self, alphabet: int) -> Table:
        """Read the table of the symbols 0..alphabet-1 (2 to 4,096)."""
        mantissa_bits, ratio = divmod(int(self.bits(1, 4)[0]), 4)
        levels = token_weights(mantissa_bits)
        steps = unzigzag(self.symbols(_prior(RATIOS[ratio], 2 * levels.size), alphabet))
        tokens = np.cumsum(steps)
        if tokens.min() < 0 or tokens.max() >= levels.size:
            raise MalformedArtifact("a frequency table leaves its range")
        return Table.from_weights(levels[tokens])

    def end(self) -> None:
        """Refuse a stream that holds more than what was read."""
        if not self._coder.is_empty():
            raise MalformedArtifact("the symbol stream does not end where its symbols do")

    def _decode(self, model: Any, count: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        values = np.empty(count, dtype)
        with _coder_refusals():
            for start in range(0, count, CHUNK):
                size = min(CHUNK, count - start)
                values[start : start + size] = self._coder.decode(model, size)
        return values


def _nearest(levels: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Token whose level is nearest; a symbol that occurs never gets token 0, which would cost it 24 bits."""
    above = np.clip(np.searchsorted(levels, counts), 0, levels.size - 1)
    below = np.maximum(above - 1, 0)
    nearer = np.where(counts - levels[below] < levels[above] - counts, below, above)
    return np.where(counts > 0, np.maximum(nearer, 1), 0)


@contextmanager
def _coder_refusals() -> Iterator[None]:
    """The coder is Rust: a failed assertion there is a BaseException, which nobody above would take for a bad file."""
    try:
        yield
    except (ValueError, KeyError) as exc:
        raise MalformedArtifact(f"the symbol stream is unreadable: {exc}") from exc
    except BaseException as exc:
        if type(exc).__name__ != "PanicException":
            raise
        raise MalformedArtifact("the symbol stream is unreadable: the coder gave up") from exc
