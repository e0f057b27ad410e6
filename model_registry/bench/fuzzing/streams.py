"""Symbol streams for hostile heads: invented ones, and real ones with symbols exchanged.

Random words die at the first frequency table. So a decoder is run over a coder of our own that answers with symbols of our
choice and notes what was asked; encoding the notes backwards gives words from which the real decoder takes just those symbols.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from model_registry.contract import entropy

REAL_CODER = entropy.AnsCoder
MAX_SYMBOLS = 1 << 15

Note = tuple[np.ndarray[Any, np.dtype[np.int32]], Any]


class _Inventor:
    """Answers like the coder: what ``start`` says, then zeros, sparse even numbers (rising tables), coins or noise."""

    def __init__(self, rng: random.Random, notes: list[Note], start: Iterable[Note]) -> None:
        self._rng, self._notes, self._left, self._start = rng, notes, MAX_SYMBOLS, iter(start)

    def decode(self, model: Any, size: int | None = None) -> Any:
        known = next(self._start, None)
        symbols = self._invent(1 if size is None else size) if known is None else known[0]
        self._notes.append((symbols, model))
        return symbols if size is not None else int(symbols[0])

    def _invent(self, size: int) -> np.ndarray[Any, np.dtype[np.int32]]:
        self._left -= size
        if self._left < 0:
            raise ValueError("a stream long enough")
        symbols = np.zeros(size, np.int32)
        kind = self._rng.choice("zzzssscn")
        if kind == "s":
            for _ in range(min(size, 4)):
                # 30 is a new table where there are thirty laws.
                symbols[self._rng.randrange(size)] = self._rng.choice((2, 4, 12, 30, 40))
        elif kind != "z":
            noise = np.frombuffer(self._rng.randbytes(size), np.uint8)
            symbols += noise % (2 if kind == "c" else 16)
        return symbols

    def is_empty(self) -> bool:
        return True


class _Listener:
    """The real coder, and notes of what it answered."""

    def __init__(self, words: Any, notes: list[Note]) -> None:
        self._coder, self._notes = REAL_CODER(words), notes

    def decode(self, model: Any, size: int | None = None) -> Any:
        symbols = self._coder.decode(model, 1 if size is None else size)
        self._notes.append((symbols.copy(), model))
        return symbols if size is not None else int(symbols[0])

    def is_empty(self) -> bool:
        return bool(self._coder.is_empty())


def invented(rng: random.Random, decode: Callable[[], object], start: Iterable[Note] = ()) -> bytes:
    """A stream that begins with ``start`` and fits whatever else ``decode`` asks for, until it refuses for another reason."""
    notes: list[Note] = []
    # Whatever stops the decoder here will stop it again where it counts.
    with _coder(lambda _words: _Inventor(rng, notes, start)), suppress(Exception):
        decode()
    return _encode(notes)


def exchanged(rng: random.Random, decode: Callable[[], object]) -> bytes:
    """The stream that ``decode`` reads with some symbols changed: of a table, of a partition, of a number's bits."""
    notes: list[Note] = []
    with _coder(lambda words: _Listener(words, notes)), suppress(Exception):
        decode()
    for _ in range(rng.choice((1, 1, 2, 4)) if notes else 0):
        symbols, _model = notes[rng.randrange(len(notes))]
        if symbols.size:
            _change(rng, symbols)
    return _encode(notes)


def _change(rng: random.Random, symbols: np.ndarray[Any, np.dtype[np.int32]]) -> None:
    at, largest = rng.randrange(symbols.size), int(symbols.max())
    match rng.randrange(5):
        case 0:
            symbols[at] = rng.choice((0, 1, largest, largest + 1))
        case 1:
            symbols[at] = rng.randrange(largest + 8)
        case 2:
            symbols[at:] = symbols[at]
        case 3:
            symbols[:] = rng.choice((0, largest))
        case _:
            symbols[at:] = symbols[at:][::-1].copy()


def _encode(notes: list[Note]) -> bytes:
    coder = REAL_CODER()
    for symbols, model in reversed(notes):
        # A symbol beyond its model's alphabet cannot be written: this step is left out, and the rest reads as noise.
        with suppress(ValueError, KeyError):
            coder.encode_reverse(symbols, model)
    return bytes(np.asarray(coder.get_compressed(), "<u4").tobytes())


@contextmanager
def _coder(make: Callable[[Any], Any]) -> Iterator[None]:
    entropy.AnsCoder = make
    try:
        yield
    finally:
        entropy.AnsCoder = REAL_CODER
