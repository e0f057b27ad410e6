"""Strict reading of parsed JSON: one typed field at a time, with the field's path in every refusal."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from model_registry.contract.errors import Refusal

SHA256 = re.compile(r"[0-9a-f]{64}")
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
# Semantic Versioning 2.0.0, without build metadata: two builds of one version would be two contents.
SEMVER = re.compile(r"(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?")


class Fields:
    """A JSON object being read. Every accessor raises ``refusal`` with the field's path when the value is not as declared."""

    def __init__(self, value: Any, refusal: type[Refusal], path: str = "") -> None:
        self._refusal = refusal
        self._path = path
        if not isinstance(value, Mapping):
            raise self._wrong("", "an object")
        self._value = value

    def only(self, *names: str) -> Fields:
        """Refuse any field that is not named: an unknown field is a newer format or a mistake, never noise."""
        unknown = sorted(set(self._value) - set(names))
        if unknown:
            raise self._refusal(f"unknown field {self._at(unknown[0])}")
        return self

    def text(self, name: str, *, pattern: re.Pattern[str] | None = None, max_length: int = 4096) -> str:
        value = self._get(name)
        if not isinstance(value, str) or len(value) > max_length:
            raise self._wrong(name, f"a string of at most {max_length} characters")
        if pattern is not None and not pattern.fullmatch(value):
            raise self._wrong(name, f"a string like {pattern.pattern}")
        return value

    def optional_text(self, name: str, *, pattern: re.Pattern[str] | None = None, max_length: int = 4096) -> str | None:
        return None if self._value.get(name) is None else self.text(name, pattern=pattern, max_length=max_length)

    def integer(self, name: str, *, low: int = 0, high: int = 2**53) -> int:
        value = self._get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self._wrong(name, f"an integer from {low} to {high}")
        return value

    def number(self, name: str) -> float:
        return self._as_number(name, self._get(name))

    def numbers(self, name: str, *, max_length: int = 4096) -> tuple[float, ...]:
        return tuple(self._as_number(name, item) for item in self.items(name, max_length=max_length))

    def integers(self, name: str, *, low: int = 0, high: int = 2**53, max_length: int = 4096) -> tuple[int, ...]:
        items = self.items(name, max_length=max_length)
        if any(isinstance(i, bool) or not isinstance(i, int) or not low <= i <= high for i in items):
            raise self._wrong(name, f"integers from {low} to {high}")
        return tuple(items)

    def texts(self, name: str, *, max_length: int = 4096, max_item: int = 4096) -> tuple[str, ...]:
        items = self.items(name, max_length=max_length)
        if any(not isinstance(i, str) or len(i) > max_item for i in items):
            raise self._wrong(name, "strings")
        return tuple(items)

    def boolean(self, name: str) -> bool:
        value = self._get(name)
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false")
        return value

    def items(self, name: str, *, max_length: int = 4096) -> list[Any]:
        value = self._get(name)
        if not isinstance(value, list) or len(value) > max_length:
            raise self._wrong(name, f"a list of at most {max_length} items")
        return value

    def object(self, name: str) -> Fields:
        return Fields(self._get(name), self._refusal, self._at(name))

    def objects(self, name: str, *, max_length: int = 4096) -> list[Fields]:
        items = self.items(name, max_length=max_length)
        return [Fields(item, self._refusal, f"{self._at(name)}[{i}]") for i, item in enumerate(items)]

    def plain(self) -> dict[str, Any]:
        """The object as it is, for free-form parts that nothing here interprets."""
        return dict(self._value)

    def optional_object(self, name: str) -> Fields | None:
        return None if self._value.get(name) is None else self.object(name)

    def _as_number(self, name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self._wrong(name, "a finite number")
        return float(value)

    def _get(self, name: str) -> Any:
        if name not in self._value:
            raise self._refusal(f"field {self._at(name)} is missing")
        return self._value[name]

    def _at(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path and name else self._path or name or "document"

    def _wrong(self, name: str, expected: str) -> Refusal:
        return self._refusal(f"field {self._at(name)} is not {expected}")
