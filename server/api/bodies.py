"""Bounds on what clients send: bytes are counted as they come, and neither silence nor a trickle holds a place for long."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model_registry.contract.messages import MAX_MESSAGE_BYTES
from server.api.problems import problem_of
from server.errors import BodyTooLarge
from server.settings import Settings

UPLOADS_PATH = "/api/v1/uploads"
DEVICE_PREFIX = "/device/"
# Slower than any link that is worth waiting for.
MIN_RATE_BYTES_PER_S = 4 * 1024


@dataclass(slots=True)
class _Progress:
    """Of one request's body."""

    left_bytes: int
    ends: float
    complete: bool = False


class BodyBounds:
    """ASGI middleware. Too long: 413, before the first byte where the length is announced. Too slow: 408."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._limit(scope["path"])
        announced = _content_length(scope)
        if announced is not None and announced > limit:
            await problem_of(_too_large(limit))(scope, receive, send)
            return
        longest_s = 2 * self._settings.body_idle_timeout_s + (limit if announced is None else announced) / MIN_RATE_BYTES_PER_S
        progress = _Progress(limit, time.monotonic() + longest_s)

        async def bounded() -> Message:
            if progress.complete:
                return await receive()
            return await self._next_part(receive, progress, limit)

        await self._app(scope, bounded, send)

    def _limit(self, path: str) -> int:
        if path == UPLOADS_PATH:
            return self._settings.max_upload_bytes
        return MAX_MESSAGE_BYTES if path.startswith(DEVICE_PREFIX) else self._settings.max_body_bytes

    async def _next_part(self, receive: Receive, progress: _Progress, limit: int) -> Message:
        try:
            async with asyncio.timeout(min(self._settings.body_idle_timeout_s, progress.ends - time.monotonic())):
                message = await receive()
        except TimeoutError:
            # An HTTPException, because the framework passes no other through while it reads a body.
            raise HTTPException(408, "the body comes too slowly") from None
        progress.left_bytes -= len(message.get("body", b""))
        progress.complete = not message.get("more_body", False)
        if progress.left_bytes < 0:
            raise HTTPException(413, _too_large(limit).message)
        return message


def _content_length(scope: Scope) -> int | None:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else None
    return None


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is above the limit of {limit} bytes", remedy="send less, or raise the registry's limit")
