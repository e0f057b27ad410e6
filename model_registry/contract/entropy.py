"""Entropy coding of symbols with transmitted integer frequencies: one asymmetric-numeral-systems stack for a whole artifact.

**No float decides a symbol.** The coder is constriction's ``AnsCoder`` (32-bit words, 64-bit state, probabilities in units of
2^-24). Its ``Categorical(perfect=False)`` turns float32 weights p into the cumulative ``trunc(sum(p before i) * (2^24 - n) /
sum(p)) + i``. We hand it p = frequency - 1 where the n frequencies are integers that sum to 2^24: then sum(p) is exactly
2^24 - n, the factor is exactly 1, every partial sum is an integer below 2^24 and thus exact in float32, and what comes out is
the running sum of our own integers. No step rounds, so the result cannot depend on a machine; the tests decode the same
streams with an integer-only decoder. Frequencies themselves are made from transmitted tokens by integer arithmetic
(``Table.from_weights``). The byte-for-byte rules are in docs/container-format.md.

Contexts are partitions: symbols are grouped by a context that the reader already knows, and every group names its table: a law
that every reader has (laws.py), a new one, or one that came before it in the stream.
Streams are hostile until the content's digest is checked: any words decode to *some* symbols, counts come from the caller, and
no value read here sets the size of an allocation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from types import TracebackType
from typing import Any, TypeVar

import constriction
import numpy as np
import numpy.typing as npt

from model_registry.contract.errors import MalformedArtifact
from model_registry.contract.laws import law_weights, laws_of

Integers = npt.NDArray[np.integer[Any]]
Signed = TypeVar("Signed", bound=np.signedinteger[Any])
AnsCoder = constriction.stream.stack.AnsCoder
Categorical = constriction.stream.model.Categorical
Uniform = constriction.stream.model.Uniform

PRECISION_BITS = 24
TOTAL = 1 << PRECISION_BITS
MAX_BITS = 16
# The coder answers in int32: decoding piecewise keeps that copy small beside the tensor it fills.
CHUNK = 1 << 16
# What finding a symbol takes, in steps through the symbols from 0 on (measured): a processor foresees where the steps end while
# one symbol prevails, and loses many where it is another one.
STEPS_A_HALVING, STEPS_A_SURPRISE = 5, 40

# A weight is coded as a token: floating-point-like levels with 0 to 3 bits of mantissa, below 2^24.
WEIGHT_BITS = 24
# How a table's tokens differ from one symbol to the next: four fixed two-sided geometric laws, ratio in 64ths.
RATIOS = (1, 16, 38, 53)
LEAST_PRIOR_WEIGHT = 64
FORM_BITS = 4
# A stream has at most so many tables of one alphabet.
MAX_TABLES = 63
COST_UNIT = 1 << 16
NEVER = 1 << 62


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Integer ``frequencies`` of the symbols 0..n-1 (n >= 2), each at least 1, with the sum 2^24."""

    frequencies: npt.NDArray[np.int64]

    @classmethod
    def from_weights(cls, weights: npt.NDArray[np.int64]) -> Table:
        """Scale integer weights (each below 2^24, at most 4,096 of them) to the total; all zero means all equal."""
        count = weights.size
        running = np.cumsum(weights if weights.any() else np.ones_like(weights))
        frequencies = running * (TOTAL - count) // running[-1]
        frequencies[1:] -= frequencies[:-1].copy()
        return cls(frequencies + 1)

    def costs(self) -> npt.NDArray[np.int64]:
        """What each symbol costs, in 1/65536 bit."""
        bits: npt.NDArray[np.float64] = PRECISION_BITS - np.log2(self.frequencies)
        return np.rint(bits * COST_UNIT).astype(np.int64)

    def model(self) -> Any:
        """The coder's model of these frequencies."""
        return Categorical((self.frequencies - 1).astype(np.float32), perfect=False, lazy=self._is_steep())

    def _is_steep(self) -> bool:
        """Whether going through the symbols from 0 on finds them faster than halving does, which is all that it changes."""
        count = self.frequencies.size
        steps = int(self.frequencies @ np.arange(count)) + STEPS_A_SURPRISE * (TOTAL - int(self.frequencies.max()))
        return steps < STEPS_A_HALVING * (count - 1).bit_length() * TOTAL


@cache
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


@cache
def _prior_model(ratio: int, size: int) -> Any:
    return _prior(ratio, size).model()


@lru_cache(maxsize=128)
def _law(alphabet: int, number: int) -> Table:
    return Table.from_weights(law_weights(alphabet, number))


@cache
def _law_costs(alphabet: int) -> npt.NDArray[np.int64]:
    """What each symbol costs, a row for every law."""
    return np.stack([_law(alphabet, number).costs() for number in range(laws_of(alphabet))])


@lru_cache(maxsize=128)
def _law_model(alphabet: int, number: int) -> Any:
    return _law(alphabet, number).model()


@cache
def _uniform(width: int) -> Any:
    return Uniform(1 << width)


@cache
def _prior_costs(size: int) -> npt.NDArray[np.int64]:
    """What each token difference costs, a row for every prior."""
    return np.stack([_prior(ratio, size).costs() for ratio in RATIOS])


def zigzag(values: Integers) -> npt.NDArray[np.int64]:
    """0, -1, 1, -2, 2 ... -> 0, 1, 2, 3, 4 ..."""
    wide = values.astype(np.int64)
    return (wide << 1) ^ (wide >> 63)


def unzigzag(values: npt.NDArray[Signed]) -> npt.NDArray[Signed]:
    """The inverse of ``zigzag``, in the type of its argument."""
    signs = values & 1
    halves: npt.NDArray[Signed] = np.right_shift(values, 1)
    np.bitwise_xor(halves, np.negative(signs, out=signs), out=halves)
    return halves


class SymbolWriter:
    """Collects symbols in reading order; ``cost`` (1/65536 bit) lets an encoder compare ways before it commits to one."""

    def __init__(self) -> None:
        self._steps: list[_Step] = []

    def partition(self, values: Integers, alphabet: int) -> None:
        """Append symbols 0..alphabet-1 under a table made for them, or shared with other partitions when that is cheaper."""
        if values.size and alphabet > 1:
            self._steps.append(_Step(np.ascontiguousarray(values.ravel(), np.int32), alphabet=alphabet))

    def bits(self, values: Integers, width: int) -> None:
        """Append plain numbers of ``width`` bits, 0 to 16."""
        if values.size and width:
            self._steps.append(_Step(np.ascontiguousarray(values.ravel(), np.int32), bits=width))

    @property
    def cost(self) -> int:
        """What the stream so far would take, tables included."""
        plain = sum(step.values.size * step.bits for step in self._steps) * COST_UNIT
        return plain + sum((shared.cost for shared in self._shared_tables().values()), 0)

    def extend(self, other: SymbolWriter) -> None:
        self._steps += other._steps

    def finish(self) -> bytes:
        """The stream. The last symbol goes onto the stack first, so that a reader takes them in order."""
        coder = AnsCoder()
        for values, model in reversed(list(self.resolved())):
            coder.encode_reverse(values, model)
        return bytes(np.asarray(coder.get_compressed(), "<u4").tobytes())

    def resolved(self) -> Iterator[tuple[npt.NDArray[np.int32], Any]]:
        """Every step with its model; before a partition the number of its table, and the table itself at its first use."""
        shared = self._shared_tables()
        known = {alphabet: list(range(laws_of(alphabet))) for alphabet in shared}
        for step in self._steps:
            if step.bits:
                yield step.values, Uniform(1 << step.bits)
                continue
            numbers, choice = known[step.alphabet], shared[step.alphabet].take()
            new = choice not in numbers
            width = len(numbers).bit_length()
            if width:
                yield np.array([len(numbers) if new else numbers.index(choice)], np.int32), Uniform(1 << width)
            if choice < laws_of(step.alphabet):
                yield step.values, _law_model(step.alphabet, choice)
                continue
            coded = shared[step.alphabet].tables[choice - laws_of(step.alphabet)]
            if new:
                numbers.append(choice)
                yield np.array([coded.form], np.int32), Uniform(1 << FORM_BITS)
                yield coded.steps.astype(np.int32), coded.prior.model()
            yield step.values, coded.table.model()

    def _shared_tables(self) -> dict[int, _SharedTables]:
        histograms: dict[int, list[npt.NDArray[np.int64]]] = {}
        for step in self._steps:
            if step.alphabet:
                histogram = np.bincount(step.values, minlength=step.alphabet).astype(np.int64)
                histograms.setdefault(step.alphabet, []).append(histogram)
        return {alphabet: _SharedTables(alphabet, rows) for alphabet, rows in histograms.items()}


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """Symbols under a partition's table (``alphabet``) or plain numbers (``bits``)."""

    values: npt.NDArray[np.int32]
    alphabet: int = 0
    bits: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class _CodedTable:
    """A table as it is sent: form (mantissa bits, prior) and zigzag-coded token steps; ``cost`` counts its symbols too."""

    table: Table
    form: int
    steps: npt.NDArray[np.int64]
    prior: Table
    cost: int


@lru_cache(maxsize=1024)
def _code_table(frequencies: bytes) -> _CodedTable:
    """The table that codes a histogram (int64) in the fewest bits, itself included.

    Remembered, because who compares ways of coding asks about the same symbols again and again.
    """
    histogram = np.frombuffer(frequencies, np.int64)
    counts = histogram >> max(0, int(histogram.max()).bit_length() - WEIGHT_BITS)
    counts = np.where((counts == 0) & (histogram > 0), 1, counts)
    forms = [_cheapest_form(0, np.zeros_like(counts), histogram)]
    forms += [_cheapest_form(bits, _nearest(token_weights(bits), counts), histogram) for bits in range(4)]
    return min(forms, key=lambda coded: coded.cost)


def _cheapest_form(mantissa_bits: int, tokens: Integers, histogram: npt.NDArray[np.int64]) -> _CodedTable:
    """These tokens under the prior that suits them best."""
    levels = token_weights(mantissa_bits)
    steps = zigzag(np.diff(tokens, prepend=0))
    table = Table.from_weights(levels[tokens])
    costs = _prior_costs(2 * levels.size)[:, steps].sum(axis=1)
    number = int(costs.argmin())
    cost = int(table.costs() @ histogram) + FORM_BITS * COST_UNIT + int(costs[number])
    return _CodedTable(table, mantissa_bits * 4 + number, steps, _prior(RATIOS[number], 2 * levels.size), cost)


class _SharedTables:
    """Which partitions of one alphabet use which table: a law's, numbered from 0 on, or one of ``tables`` behind them."""

    def __init__(self, alphabet: int, histograms: list[npt.NDArray[np.int64]]) -> None:
        laws = laws_of(alphabet)
        best, costs = _best_laws(alphabet, histograms)
        self.tables: list[_CodedTable] = []
        self._choices = best
        for members in _clustered(alphabet, histograms, costs):
            table = _code_table(np.sum([histograms[i] for i in members], axis=0).tobytes())
            if table.cost < sum(costs[i] for i in members):
                self.tables.append(table)
                for index in members:
                    self._choices[index] = laws + len(self.tables) - 1
        names = (laws + len(self.tables)).bit_length() if laws or len(histograms) > 1 else 0
        self.cost = sum(costs[i] for i, choice in enumerate(self._choices) if choice < laws)
        self.cost += sum(table.cost for table in self.tables) + names * len(histograms) * COST_UNIT
        self._taken = 0

    def take(self) -> int:
        """The table of the next partition."""
        self._taken += 1
        return self._choices[self._taken - 1]


def _best_laws(alphabet: int, histograms: list[npt.NDArray[np.int64]]) -> tuple[list[int], list[int]]:
    """The law that suits each best, and what it costs; without laws more than any table."""
    if not laws_of(alphabet):
        return [0] * len(histograms), [NEVER] * len(histograms)
    costs = np.stack(histograms) @ _law_costs(alphabet).T
    return costs.argmin(axis=1).tolist(), costs.min(axis=1).tolist()


def _clustered(alphabet: int, histograms: list[npt.NDArray[np.int64]], otherwise: list[int]) -> list[list[int]]:
    """Which share a table: large ones first, each joins those before it where that is cheaper than a table of its own.

    What would pay more than ``otherwise`` takes no part.
    """
    sums, clusters = np.zeros((0, alphabet), np.int64), list[list[int]]()
    for index in sorted(range(len(histograms)), key=lambda i: (-int(histograms[i].sum()), i)):
        histogram = histograms[index]
        alone = int(_ideal_costs(histogram[np.newaxis])[0]) + _table_estimate(histogram)
        joined = _ideal_costs(sums + histogram) - _ideal_costs(sums)
        nearest = int(joined.argmin()) if clusters else 0
        founds = not clusters or (joined[nearest] > alone and len(clusters) < MAX_TABLES)
        if (alone if founds else joined[nearest]) >= otherwise[index]:
            continue
        if founds:
            sums = np.vstack([sums, histogram])
            clusters.append([index])
        else:
            sums[nearest] += histogram
            clusters[nearest].append(index)
    return clusters


def _table_estimate(histogram: npt.NDArray[np.int64]) -> int:
    """About what a table costs: two bits a symbol where most occur, up to eight where one stands among many that do not."""
    occurring = int(np.count_nonzero(histogram))
    return (8 + 8 * occurring - 6 * occurring * occurring // histogram.size) * COST_UNIT


def _ideal_costs(histograms: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """What each row's symbols cost under their own frequencies, without the table."""
    rows = histograms.astype(np.float64)
    totals = rows.sum(axis=1, keepdims=True)
    bits = (rows * np.log2(np.maximum(totals, 1) / np.maximum(rows, 1))).sum(axis=1)
    costs: npt.NDArray[np.int64] = np.rint(bits * COST_UNIT).astype(np.int64)
    return costs


class SymbolReader:
    """Takes symbols off a stream. Raises MalformedArtifact; never reads beyond it, never allocates by what it reads."""

    def __init__(self, data: bytes, *, laws: bool = True) -> None:
        """``laws``: whether the stream names laws; those of the first artifacts do not."""
        if len(data) % 4:
            raise MalformedArtifact("truncated or damaged: the symbol stream is not made of 32-bit words")
        self._laws = laws
        self._models: dict[int, list[Any]] = {}
        with CoderRefusals():
            self._coder = AnsCoder(np.frombuffer(data, "<u4").astype(np.uint32))

    def partition(self, size: int, alphabet: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """``size`` symbols 0..alphabet-1 (1 to 4,096) as ``dtype``."""
        if not size or alphabet < 2:
            return np.zeros(size, dtype)
        known, laws = self._models.setdefault(alphabet, []), laws_of(alphabet) if self._laws else 0
        number = self._number((laws + len(known)).bit_length())
        if number < laws:
            return self._decode(_law_model(alphabet, number), size, dtype)
        number -= laws
        if number > len(known) or number >= MAX_TABLES:
            raise MalformedArtifact("a partition uses a table that does not exist")
        if number == len(known):
            known.append(self._table(alphabet).model())
        return self._decode(known[number], size, dtype)

    def bits(self, count: int, width: int) -> npt.NDArray[np.int64]:
        if not width:
            return np.zeros(count, np.int64)
        return self._decode(_uniform(width), count, np.int64)

    def _number(self, width: int) -> int:
        """One plain number of ``width`` bits."""
        if not width:
            return 0
        with CoderRefusals():
            return int(self._coder.decode(_uniform(width)))

    def _table(self, alphabet: int) -> Table:
        mantissa_bits, ratio = divmod(self._number(FORM_BITS), 4)
        levels = token_weights(mantissa_bits)
        steps = self._decode(_prior_model(RATIOS[ratio], 2 * levels.size), alphabet, np.int64)
        tokens = np.cumsum(unzigzag(steps))
        if tokens.min() < 0 or tokens.max() >= levels.size:
            raise MalformedArtifact("a frequency table leaves its range")
        return Table.from_weights(levels[tokens])

    def end(self) -> None:
        """Refuse a stream that holds more than what was read."""
        if not self._coder.is_empty():
            raise MalformedArtifact("the symbol stream does not end where its symbols do")

    def _decode(self, model: Any, count: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        with CoderRefusals():
            if count <= CHUNK:
                return self._coder.decode(model, count).astype(dtype)  # type: ignore[no-any-return]
            values = np.empty(count, dtype)
            for start in range(0, count, CHUNK):
                size = min(CHUNK, count - start)
                values[start : start + size] = self._coder.decode(model, size)
        return values


def _nearest(levels: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Token whose level is nearest; a symbol that occurs never gets token 0, which would cost it 24 bits."""
    above = np.minimum(np.searchsorted(levels, counts), levels.size - 1)
    below = np.maximum(above - 1, 0)
    nearer = np.where(counts - levels[below] < levels[above] - counts, below, above)
    tokens: npt.NDArray[np.int64] = np.where(counts > 0, np.maximum(nearer, 1), 0)
    return tokens


class CoderRefusals:
    """The coder is Rust: a failed assertion there is a BaseException, which nobody above would take for a bad file.

    A class, because this stands around every one of thousands of small reads, and a generator would cost more than they do.
    """

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        if exc is None:
            return
        if isinstance(exc, ValueError | KeyError):
            raise MalformedArtifact(f"the symbol stream is unreadable: {exc}") from exc
        if type(exc).__name__ == "PanicException":
            raise MalformedArtifact("the symbol stream is unreadable: the coder gave up") from exc
