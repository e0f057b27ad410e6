"""The registry's API as commands use it: one place for addresses, the token, and telling people what went wrong."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx2
import typer

from model_registry.contract.errors import Refusal, Unreachable
from server.errors import Unauthorized

DEFAULT_SERVER = "http://127.0.0.1:8000"
DEFAULT_DATA = "deltafleet-data"
TIMEOUT_S = 30.0
UPLOAD_TIMEOUT_S = 600.0
MAX_ANSWER_BYTES = 64 * 1024 * 1024

Server = Annotated[str, typer.Option(help="The registry's address.", envvar="DELTAFLEET_SERVER")]
Token = Annotated[
    str | None,
    typer.Option(
        help="The operator token. Default: the file operator-token in DELTAFLEET_DATA.",
        envvar="DELTAFLEET_TOKEN",
        show_envvar=True,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


class RegistryRefused(Refusal):
    """The registry answers with a problem, in its own words."""

    code = "registry_refused"


class RegistryClient:
    """Speaks to one registry. Raises Unreachable, Unauthorized, RegistryRefused."""

    def __init__(self, client: httpx2.Client, server: str) -> None:
        self._client = client
        self._server = server

    def get(self, path: str, **parameters: Any) -> dict[str, Any]:
        given = {name: value for name, value in parameters.items() if value is not None}
        return self._answer("GET", path, params=given)

    def post(self, path: str, value: dict[str, Any] | None = None) -> dict[str, Any]:
        return self._answer("POST", path, json=value if value is not None else {})

    def put(self, path: str, value: dict[str, Any]) -> dict[str, Any]:
        return self._answer("PUT", path, json=value)

    def delete(self, path: str) -> dict[str, Any]:
        return self._answer("DELETE", path)

    def upload(self, pieces: Iterator[bytes], size_bytes: int) -> dict[str, Any]:
        headers = {"Content-Length": str(size_bytes), "Content-Type": "application/octet-stream"}
        timeout = httpx2.Timeout(UPLOAD_TIMEOUT_S, connect=TIMEOUT_S)
        return self._answer("POST", "/api/v1/uploads", content=pieces, headers=headers, timeout=timeout)

    def all_items(self, path: str, **parameters: Any) -> list[dict[str, Any]]:
        """Every item of a list that comes in pages."""
        items: list[dict[str, Any]] = []
        cursor = None
        while True:
            page = self.get(path, cursor=cursor, **parameters)
            items += page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return items

    def _answer(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        try:
            answer = self._client.request(method, path, **request)
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as exc:
            raise RegistryRefused(f"{self._server!r} is not an address", remedy="use http://HOST:PORT") from exc
        except httpx2.HTTPError as exc:
            raise Unreachable(
                f"the registry at {self._server} does not answer: {str(exc) or type(exc).__name__}",
                remedy="is `deltafleet serve` running there? Name another with --server",
            ) from exc
        return _value(answer, self._server)


def _value(answer: httpx2.Response, server: str) -> dict[str, Any]:
    try:
        value = answer.json()
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise Unreachable(f"{server} answers {answer.status_code}, not as a registry does", remedy="check --server")
    if answer.status_code == httpx2.codes.UNAUTHORIZED:
        remedy = "give --token, or DELTAFLEET_TOKEN, or DELTAFLEET_DATA with the registry's folder"
        raise Unauthorized(str(value.get("detail", "not allowed")), remedy=remedy)
    if not answer.is_success:
        detail = str(value.get("detail", f"the registry answers {answer.status_code}"))
        raise RegistryRefused(detail, remedy=str(value.get("remedy", "")))
    return value


def require_name(name: str, pattern: re.Pattern[str], what: str) -> None:
    """A name that becomes part of an address. Raises RegistryRefused, in clearer words than a wrong address would give."""
    if not pattern.fullmatch(name):
        raise RegistryRefused(f"{name!r} is not a {what}'s name", remedy=f"use a form like {pattern.pattern}")


@contextmanager
def registry_client(server: str, token: str | None) -> Iterator[RegistryClient]:
    """A client for the length of a command."""
    headers = {"Authorization": f"Bearer {known}"} if (known := token or _token_from_file()) else {}
    try:
        client = httpx2.Client(base_url=server, headers=headers, timeout=TIMEOUT_S, trust_env=False)
    except (httpx2.InvalidURL, ValueError) as exc:
        raise RegistryRefused(f"{server!r} is not an address", remedy="use http://HOST:PORT") from exc
    with client:
        yield RegistryClient(client, server)


def _token_from_file() -> str | None:
    path = Path(os.environ.get("DELTAFLEET_DATA", DEFAULT_DATA)) / "operator-token"
    try:
        return path.read_text().strip() or None
    except OSError:
        return None
