"""Lists in parts: ``?limit=`` and an opaque ``?cursor=``, which is the last item's key."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

from fastapi import Query

from server.api.schemas import Page
from server.errors import InvalidRequest

Row = TypeVar("Row")
Item = TypeVar("Item")
Limit = Annotated[int, Query(ge=1, le=1000)]
Cursor = Annotated[str | None, Query(max_length=256)]


def page(rows: Sequence[Row], limit: int, answer: Callable[[Row], Item], key: Callable[[Row], str]) -> Page[Item]:
    """A page of ``rows``, which were asked for with one more than ``limit`` to see whether there are more."""
    shown = rows[:limit]
    more = len(rows) > limit
    return Page(items=[answer(row) for row in shown], next_cursor=_encoded(key(shown[-1])) if more else None)


def _encoded(key: str) -> str:
    return base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


def cursor_text(cursor: str | None, first: str = "") -> str:
    """The key to continue after. Raises InvalidRequest."""
    if cursor is None:
        return first
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
    except (binascii.Error, ValueError) as exc:
        raise _wrong() from exc
    if "\x00" in text:
        raise _wrong()
    return text


def cursor_number(cursor: str | None, first: int) -> int:
    """The same for keys that are numbers."""
    text = cursor_text(cursor, str(first))
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise _wrong()
    return min(int(text), 2**31 - 1)


def _wrong() -> InvalidRequest:
    return InvalidRequest("the cursor is not one of ours", remedy="use next_cursor of the page before, unchanged")
