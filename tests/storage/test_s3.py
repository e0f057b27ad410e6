"""What only a network store can do wrong: not answer, refuse, break off; and its presigned addresses."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from model_registry.contract.errors import Unreachable
from model_registry.storage import MissingObject, StorageDenied
from model_registry.storage.s3 import S3Location, S3Store
from tests.daemons import LOOPBACK, free_port, wait_until

IMPATIENT = {"connect_timeout_s": 0.5, "read_timeout_s": 0.5, "max_attempts": 2}


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def nowhere(**changes: object) -> S3Location:
    """A location at a port where nobody listens."""
    location = S3Location("bucket", f"http://{LOOPBACK}:{free_port()}", access_key_id="key", secret_access_key="secret")
    return dataclasses.replace(location, **{**IMPATIENT, **changes})  # type: ignore[arg-type]


def get(url: str, **headers: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as exc:
        return exc.code, b""


def test_a_store_that_is_not_there_is_unreachable_soon() -> None:
    store, begun = S3Store(nowhere()), time.monotonic()
    with pytest.raises(Unreachable, match="did not answer"):
        store.read("key", max_bytes=1)
    with pytest.raises(Unreachable):
        store.put("key", b"x", sha256=None, size_bytes=1)
    with pytest.raises(Unreachable):
        store.size("key")
    assert time.monotonic() - begun < 15


def test_a_store_that_accepts_and_says_nothing_is_unreachable_soon() -> None:
    with socket.create_server((LOOPBACK, 0)) as listening:
        store = S3Store(nowhere(endpoint_url=f"http://{LOOPBACK}:{listening.getsockname()[1]}"))
        begun = time.monotonic()
        with pytest.raises(Unreachable):
            store.read("key", max_bytes=1)
        assert time.monotonic() - begun < 15


@contextmanager
def scripted(status: int, body: bytes, length: int | None = None) -> Iterator[S3Store]:
    """A store behind an HTTP server that answers every request the same way, then closes the connection."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body) if length is None else length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer((LOOPBACK, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield S3Store(nowhere(endpoint_url=f"http://{LOOPBACK}:{server.server_port}"))
        finally:
            server.shutdown()
            thread.join()


def test_a_body_that_breaks_off_is_unreachable_not_short() -> None:
    with scripted(200, b"half", length=8) as store, store.open("key") as file, pytest.raises(Unreachable):
        file.read()


def test_a_store_with_an_internal_error_is_tried_again_later() -> None:
    with scripted(503, b"<Error><Code>SlowDown</Code></Error>") as store, pytest.raises(Unreachable, match="SlowDown"):
        store.read("key", max_bytes=1)


def test_an_answer_that_is_no_s3_is_a_refusal() -> None:
    with scripted(418, b"I am a teapot") as store, pytest.raises(StorageDenied):
        store.read("key", max_bytes=1)


def test_no_credentials_are_a_refusal_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    store = S3Store(nowhere(access_key_id=None, secret_access_key=None))
    with pytest.raises(StorageDenied, match="keys"):
        store.read("key", max_bytes=1)


def test_the_secret_is_not_printed() -> None:
    assert "s3cr3t" not in repr(nowhere(secret_access_key="s3cr3t"))


def test_a_presigned_address_is_kept_for_half_its_life() -> None:
    clock = Clock()
    store = S3Store(nowhere(), clock=clock)
    first = store.url("key", expires_s=600)
    clock.now_s += 299
    assert store.url("key", expires_s=600) == first
    assert store.url("other", expires_s=600) != first
    assert store.url("key", expires_s=60) != first


def test_a_presigned_address_is_made_anew_after_half_its_life() -> None:
    clock = Clock()
    store = S3Store(nowhere(), clock=clock)
    first = store.url("key", expires_s=600)

    def renewed() -> bool:
        clock.now_s += 300
        return store.url("key", expires_s=600) != first

    # An address carries the second in which it was signed.
    wait_until(renewed, deadline_s=5, what="another address")


def test_vehicles_are_sent_to_the_public_address() -> None:
    url = S3Store(nowhere(public_endpoint_url="https://models.example.org")).url("models/a.dfm", expires_s=60)
    assert url is not None
    assert url.startswith("https://models.example.org/bucket/models/a.dfm?")


class TestRealServer:
    """Ceph's gateway checks signatures for real; a mock would not."""

    pytestmark = pytest.mark.services

    def test_a_presigned_address_serves_the_object_and_ranges_of_it(self, s3_endpoint: S3Location) -> None:
        store, data = S3Store(s3_endpoint), bytes(range(256)) * 1000
        store.put("models/a.dfm", data, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
        url = store.url("models/a.dfm", expires_s=60)
        assert url is not None
        assert get(url) == (200, data)
        assert get(url, Range="bytes=1000-1999") == (206, data[1000:2000])

    def test_a_presigned_address_is_good_for_its_object_alone(self, s3_endpoint: S3Location) -> None:
        store = S3Store(s3_endpoint)
        for key in ("mine", "other"):
            store.put(key, b"x", sha256=None, size_bytes=1)
        url = store.url("mine", expires_s=60)
        assert url is not None
        assert get(url.replace("/mine", "/other"))[0] == 403
        assert get(url.partition("?")[0])[0] == 403

    def test_a_wrong_secret_is_a_refusal_with_a_remedy(self, s3_endpoint: S3Location) -> None:
        store = S3Store(dataclasses.replace(s3_endpoint, secret_access_key="wrong"))
        with pytest.raises(StorageDenied, match="secret"):
            store.put("key", b"x", sha256=None, size_bytes=1)
        with pytest.raises(StorageDenied):
            store.size("key")
        with pytest.raises(StorageDenied):
            store.check()

    def test_a_missing_bucket_is_not_taken_for_a_missing_object(self, s3_endpoint: S3Location) -> None:
        store = S3Store(dataclasses.replace(s3_endpoint, bucket="no-such-bucket"))
        with pytest.raises(StorageDenied, match="bucket does not exist"):
            store.read("key", max_bytes=1)
        with pytest.raises(StorageDenied, match="bucket does not exist"):
            store.check()
        existing = S3Store(s3_endpoint)
        existing.check()
        with pytest.raises(MissingObject):
            existing.read("key", max_bytes=1)

    def test_newer_checksums_work_where_the_server_takes_them(self, s3_endpoint: S3Location) -> None:
        store = S3Store(dataclasses.replace(s3_endpoint, checksums="when_supported"))
        store.put("key", b"content", sha256=None, size_bytes=7)
        assert store.read("key", max_bytes=7) == b"content"
