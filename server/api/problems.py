"""Every error answer is problem+json (RFC 9457) with a stable ``code`` and a ``remedy``."""

from __future__ import annotations

import json
import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import IntegrityError, OperationalError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from model_registry.contract.errors import (
    ArtifactRefused,
    LimitExceeded,
    ManifestRefused,
    MessageRefused,
    NotEnoughSpace,
    Refusal,
    Unreachable,
    Untrusted,
    WrongHardware,
)
from model_registry.storage import InvalidKey, MissingObject, StorageDenied
from server import errors

log = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"
# The nearest class of a refusal's ancestry decides.
STATUS: dict[type[Refusal], HTTPStatus] = {
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.Conflict: HTTPStatus.CONFLICT,
    errors.InvalidRequest: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.Unauthorized: HTTPStatus.UNAUTHORIZED,
    errors.Forbidden: HTTPStatus.FORBIDDEN,
    errors.NotAccepted: HTTPStatus.FORBIDDEN,
    errors.BodyTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.LengthRequired: HTTPStatus.LENGTH_REQUIRED,
    errors.BodyIncomplete: HTTPStatus.BAD_REQUEST,
    ArtifactRefused: HTTPStatus.UNPROCESSABLE_ENTITY,
    LimitExceeded: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    ManifestRefused: HTTPStatus.UNPROCESSABLE_ENTITY,
    MessageRefused: HTTPStatus.BAD_REQUEST,
    Untrusted: HTTPStatus.UNAUTHORIZED,
    WrongHardware: HTTPStatus.CONFLICT,
    MissingObject: HTTPStatus.NOT_FOUND,
    InvalidKey: HTTPStatus.NOT_FOUND,
    Unreachable: HTTPStatus.SERVICE_UNAVAILABLE,
    StorageDenied: HTTPStatus.SERVICE_UNAVAILABLE,
    NotEnoughSpace: HTTPStatus.INSUFFICIENT_STORAGE,
}
HEADERS = {HTTPStatus.UNAUTHORIZED: {"WWW-Authenticate": "Bearer"}, HTTPStatus.SERVICE_UNAVAILABLE: {"Retry-After": "5"}}


def status_of(refusal: Refusal) -> HTTPStatus:
    """The status that a refusal is told with."""
    known = (STATUS[kind] for kind in type(refusal).__mro__ if kind in STATUS)
    return next(known, HTTPStatus.INTERNAL_SERVER_ERROR)


def problem(status: int, code: str, detail: str, remedy: str = "", **more: Any) -> Response:
    """An error answer."""
    phrase = HTTPStatus(status).phrase
    body = {"type": "about:blank", "title": phrase, "status": status, "detail": detail, "code": code, "remedy": remedy, **more}
    return Response(json.dumps(body), status, HEADERS.get(HTTPStatus(status)), MEDIA_TYPE)


def problem_of(refusal: Refusal) -> Response:
    """A refusal as an answer."""
    return problem(status_of(refusal), refusal.code, refusal.message, refusal.remedy)


def install(app: FastAPI) -> None:
    """Have every error of this application told as a problem."""

    @app.exception_handler(Refusal)
    async def refused(_request: Request, exc: Refusal) -> Response:
        if status_of(exc) is HTTPStatus.INTERNAL_SERVER_ERROR:
            log.error("%s: %s", exc.code, exc)
        return problem_of(exc)

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, exc: RequestValidationError) -> Response:
        found = [{"at": ".".join(map(str, e["loc"])), "problem": e["msg"]} for e in exc.errors()]
        detail = "; ".join(f"{e['at']}: {e['problem']}" for e in found[:5])
        return problem(422, errors.InvalidRequest.code, detail, "see the API's description at /docs", problems=found)

    @app.exception_handler(HTTPException)
    async def http(_request: Request, exc: HTTPException) -> Response:
        answer = problem(exc.status_code, f"http_{exc.status_code}", exc.detail)
        answer.headers.update(exc.headers or {})
        return answer

    @app.exception_handler(IntegrityError)
    async def raced(_request: Request, _exc: IntegrityError) -> Response:
        return problem(409, errors.Conflict.code, "somebody else has just made the same thing", "look again, then try again")

    @app.exception_handler(OperationalError)
    async def database_away(_request: Request, exc: OperationalError) -> Response:
        log.error("the database: %s", exc.orig)
        return problem(503, "unreachable", "the database does not answer", "try again in a moment")

    @app.exception_handler(Exception)
    async def unexpected(_request: Request, _exc: Exception) -> Response:
        # The server's log has the traceback; the caller learns nothing of the inside.
        return problem(500, "internal_error", "the registry made an error", "look into its log")
