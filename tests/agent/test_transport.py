"""The network as a vehicle meets it: cut, slow, endless, redirecting, lying."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from client_agent.pace import PaceLimits
from client_agent.transport import HttpStatus, HttpTransport, TlsSettings
from model_registry.contract.errors import LimitExceeded, Unreachable
from tests.web import Answer, Request, http_server, ranged, raw_server

QUICK = PaceLimits(connect_s=1, gap_s=0.4, total_s=1.5, window_s=0.4, min_bytes_per_s=100)
DATA = bytes(range(256)) * 1024


def transport(limits: PaceLimits = QUICK) -> HttpTransport:
    return HttpTransport(TlsSettings(), limits)


def fetch(url: str, *, max_bytes: int = 1 << 20, start: int = 0, limits: PaceLimits = QUICK) -> bytes:
    return b"".join(transport(limits).get(url, max_bytes=max_bytes, start=start))


def _collect(chunks: Iterator[bytes], into: bytearray) -> None:
    for chunk in chunks:
        into.extend(chunk)


def test_nobody_listening_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(Unreachable, match="did not answer"):
        fetch(f"http://127.0.0.1:{port}/x")


@pytest.mark.parametrize("status", [204, 400, 401, 404, 410, 416, 429, 500, 503])
def test_a_status_that_is_no_success_is_named(status: int) -> None:
    with http_server(lambda _: Answer(status)) as url, pytest.raises(HttpStatus) as refused:
        fetch(f"{url}/x")
    assert refused.value.status == status


def test_a_cut_body_gives_the_bytes_before_the_cut_and_then_unreachable() -> None:
    received = bytearray()
    with http_server(lambda _: Answer(body=DATA, cut_after=100_000)) as url, pytest.raises(Unreachable, match="in full"):
        _collect(transport().get(f"{url}/x", max_bytes=len(DATA)), received)
    assert received == DATA[:100_000]


def test_an_announced_length_above_the_cap_is_refused_before_the_body() -> None:
    counted: list[int] = []
    with http_server(lambda _: Answer(body=DATA)) as url, pytest.raises(LimitExceeded, match="announces"):
        list(transport().counting(counted.append).get(f"{url}/x", max_bytes=len(DATA) - 1))
    assert counted == []


def test_an_endless_body_is_refused_at_the_cap() -> None:
    def endless(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while not over.is_set():
            connection.sendall(b"x" * 4096)

    counted: list[int] = []
    with raw_server(endless) as url, pytest.raises(LimitExceeded, match="sends more"):
        list(transport().counting(counted.append).get(f"{url}/x", max_bytes=200_000))
    assert sum(counted) <= 200_000 + 65536


DRIPS = {
    "silence": (b"", 10.0),
    "body": (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", 0.05),
    "headers": (b"HTTP/1.1 200 OK\r\nX-Padding: ", 0.05),
    "chunk size": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", 0.05),
}


@pytest.mark.parametrize("place", DRIPS)
def test_a_server_that_drips_is_given_up(place: str) -> None:
    head, pause_s = DRIPS[place]

    def drip(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(head)
        while not over.wait(pause_s):
            connection.sendall(b"x")

    started = time.monotonic()
    with raw_server(drip) as url, pytest.raises(Unreachable, match=r"slower than|silent for"):
        fetch(f"{url}/x")
    assert time.monotonic() - started < 3


def test_a_download_that_never_ends_is_given_up_at_the_deadline() -> None:
    def steady(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        while not over.wait(0.02):
            connection.sendall(b"x" * 100)

    started = time.monotonic()
    with raw_server(steady) as url, pytest.raises(Unreachable, match=r"not done after 1\.5 seconds"):
        fetch(f"{url}/x", max_bytes=10**9)
    assert time.monotonic() - started < 4


def test_a_slow_consumer_is_not_a_slow_server() -> None:
    limits = PaceLimits(connect_s=1, gap_s=0.2, total_s=30, window_s=0.2, min_bytes_per_s=1e5)
    received = 0
    with http_server(lambda _: Answer(body=DATA)) as url:
        for chunk in transport(limits).get(f"{url}/x", max_bytes=len(DATA)):
            threading.Event().wait(0.1)
            received += len(chunk)
    assert received == len(DATA)


def test_a_range_start_gives_the_rest() -> None:
    with http_server(lambda r: ranged(DATA, r)) as url:
        assert fetch(f"{url}/x", start=1000) == DATA[1000:]


def test_a_server_that_ignores_range_costs_bytes_and_not_correctness() -> None:
    counted: list[int] = []
    with http_server(lambda _: Answer(body=DATA)) as url:
        rest = b"".join(transport().counting(counted.append).get(f"{url}/x", max_bytes=len(DATA) - 70_000, start=70_000))
    assert rest == DATA[70_000:]
    assert sum(counted) == len(DATA)


def test_another_range_than_asked_for_is_refused() -> None:
    wrong = Answer(206, DATA[7:], {"Content-Range": f"bytes 7-{len(DATA) - 1}/{len(DATA)}"})
    with http_server(lambda _: wrong) as url, pytest.raises(Unreachable, match="another range"):
        fetch(f"{url}/x", start=1000)


def test_a_redirect_to_a_presigned_address_is_followed_with_range_and_leaks_nothing() -> None:
    seen: list[Request] = []

    def storage(request: Request) -> Answer:
        seen.append(request)
        return ranged(DATA, request)

    with http_server(storage) as bucket:
        location = {"Location": f"{bucket}/object?X-Amz-Signature=abc"}
        with http_server(lambda _: Answer(307, headers=location)) as url:
            assert fetch(f"{url}/repo/x", start=5) == DATA[5:]
    assert seen[0].path == "/object?X-Amz-Signature=abc"
    assert seen[0].headers["range"] == "bytes=5-"
    assert not {"authorization", "cookie", "referer"} & set(seen[0].headers)


def test_redirects_that_never_end_are_unreachable() -> None:
    circle = Answer(302, headers={"Location": "/again"})
    with http_server(lambda _: circle) as url, pytest.raises(Unreachable, match="redirects"):
        fetch(f"{url}/x")


def test_an_address_in_an_error_shows_neither_query_nor_password() -> None:
    with http_server(lambda _: Answer(403)) as url, pytest.raises(HttpStatus) as refused:
        fetch(f"{url}/x?X-Amz-Signature=secret")
    assert "secret" not in str(refused.value)


def test_plain_http_is_for_this_machine_alone() -> None:
    with pytest.raises(Unreachable, match="not an https address"):
        fetch("http://192.0.2.1/x")
    with pytest.raises(Unreachable, match="not an https address"):
        fetch("ftp://127.0.0.1/x")


def test_a_post_returns_any_status_with_headers_in_lower_case() -> None:
    with http_server(lambda r: Answer(304, headers={"ETag": '"1"', "Content-Length": "0"})) as url:
        response = transport().post(f"{url}/x", b"question", {"Content-Type": "application/json"})
    assert (response.status, response.headers["etag"], response.body) == (304, '"1"', b"")


def test_a_post_carries_its_body_and_reuses_the_connection() -> None:
    with http_server(lambda r: Answer(body=r.body[::-1])) as url:
        sender = transport()
        assert [sender.post(f"{url}/x", b, {}).body for b in (b"abc", b"def")] == [b"cba", b"fed"]


def test_a_post_is_never_redirected() -> None:
    with http_server(lambda _: Answer(307, headers={"Location": "http://127.0.0.1:1/"})) as url:
        assert transport().post(f"{url}/x", b"signed", {}).status == 307
