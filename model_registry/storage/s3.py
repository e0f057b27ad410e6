"""Artifacts in a bucket of any S3-compatible server.

Rules: the digest is checked here before a byte is sent, and signed into the request, so that the server checks it once more;
no conditional request, no stored checksum, no multipart is relied upon; every call has timeouts and a bounded number of tries.
Vehicles fetch by presigned address, which is made once per key and handed out until half its life is over: signing for every
request would cost more than answering it.
"""

from __future__ import annotations

import io
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError
from botocore.exceptions import ConnectionError as BotoConnectionError
from urllib3.exceptions import HTTPError

from model_registry.contract.errors import NotEnoughSpace, Refusal, Unreachable
from model_registry.storage.base import MissingObject, StorageDenied, check_key, checked_chunks, read_bounded

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client

_SPOOLED_IN_MEMORY_BYTES = 4 * 1024 * 1024
_REMEMBERED_URLS = 4096
_MISSING = {"NoSuchKey", "404", "NotFound"}


@dataclass(frozen=True, slots=True)
class S3Location:
    """A bucket and how to reach it.

    ``endpoint_url`` None is AWS. ``public_endpoint_url``: the server's address as vehicles see it, where it differs; presigned
    addresses carry it. ``checksums``: "when_required" suits every server; "when_supported" adds the newer checksum trailers,
    which some servers refuse. ``path_style``: the bucket in the path, which needs no wildcard DNS.
    """

    bucket: str
    endpoint_url: str | None = None
    region: str = "us-east-1"
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    public_endpoint_url: str | None = None
    checksums: Literal["when_required", "when_supported"] = "when_required"
    path_style: bool = True
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 30.0
    max_attempts: int = 3


class S3Store:
    """An ArtifactStore in a bucket that exists already. ``clock``: seconds, growing."""

    def __init__(self, location: S3Location, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._bucket = location.bucket
        self._client = _client(location, location.endpoint_url)
        public = location.public_endpoint_url
        self._signing_client = _client(location, public) if public else self._client
        self._clock = clock
        self._urls: OrderedDict[tuple[str, int], tuple[str, float]] = OrderedDict()
        self._urls_lock = threading.Lock()

    def put(self, key: str, source: BinaryIO | bytes, *, sha256: str | None, size_bytes: int) -> None:
        check_key(key)
        with tempfile.SpooledTemporaryFile(_SPOOLED_IN_MEMORY_BYTES) as spool:
            _fill(spool, key, checked_chunks(key, source, sha256=sha256, size_bytes=size_bytes))
            with _refusals(key):
                self._client.put_object(Bucket=self._bucket, Key=key, Body=spool, ContentLength=size_bytes)

    def open(self, key: str) -> BinaryIO:
        check_key(key)
        with _refusals(key):
            answer = self._client.get_object(Bucket=self._bucket, Key=key)
        return io.BufferedReader(_Body(key, answer["Body"]))

    def read(self, key: str, *, max_bytes: int) -> bytes:
        with self.open(key) as body:
            return read_bounded(key, body, max_bytes)

    def size(self, key: str) -> int | None:
        check_key(key)
        try:
            with _refusals(key):
                return self._client.head_object(Bucket=self._bucket, Key=key)["ContentLength"]
        except MissingObject:
            return None

    def delete(self, key: str) -> None:
        check_key(key)
        with _refusals(key):
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def url(self, key: str, *, expires_s: int) -> str | None:
        check_key(key)
        with self._urls_lock:
            url, made_at = self._urls.pop((key, expires_s), ("", float("-inf")))
            if self._clock() - made_at >= expires_s / 2:
                url, made_at = self._presign(key, expires_s), self._clock()
            self._urls[key, expires_s] = (url, made_at)
            if len(self._urls) > _REMEMBERED_URLS:
                self._urls.popitem(last=False)
        return url

    def local_path(self, key: str) -> Path | None:
        check_key(key)
        return None

    def check(self) -> None:
        """Ask once whether the bucket is there and lets us in. Raises StorageDenied, Unreachable."""
        try:
            with _refusals(self._bucket):
                self._client.head_bucket(Bucket=self._bucket)
        except MissingObject as exc:
            raise _no_bucket() from exc

    def _presign(self, key: str, expires_s: int) -> str:
        with _refusals(key):
            parameters = {"Bucket": self._bucket, "Key": key}
            return self._signing_client.generate_presigned_url("get_object", Params=parameters, ExpiresIn=expires_s)


def _client(location: S3Location, endpoint_url: str | None) -> S3Client:
    config = Config(
        signature_version="s3v4",
        # Signing the payload makes every server check its SHA-256, over TLS too.
        s3={"addressing_style": "path" if location.path_style else "virtual", "payload_signing_enabled": True},
        request_checksum_calculation=location.checksums,
        response_checksum_validation=location.checksums,
        retries={"mode": "standard", "total_max_attempts": location.max_attempts},
        connect_timeout=location.connect_timeout_s,
        read_timeout=location.read_timeout_s,
    )
    # A session of its own: boto3's default session is shared and not safe to use from several threads.
    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint_url,
        region_name=location.region,
        aws_access_key_id=location.access_key_id,
        aws_secret_access_key=location.secret_access_key,
        config=config,
    )


def _fill(spool: tempfile.SpooledTemporaryFile[bytes], key: str, chunks: Iterator[bytes]) -> None:
    try:
        for chunk in chunks:
            spool.write(chunk)
        spool.seek(0)
    except OSError as exc:
        raise NotEnoughSpace(
            f"{key} does not fit: {exc.strerror}", remedy="free space in the folder of temporary files"
        ) from exc


class _Body(io.RawIOBase):
    """A response's body as a file, with a broken connection as a refusal instead of the client library's errors."""

    def __init__(self, key: str, body: StreamingBody) -> None:
        self._key = key
        self._body = body

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        with _refusals(self._key):
            chunk = self._body.read(len(view))
        view[: len(chunk)] = chunk
        return len(chunk)

    def close(self) -> None:
        if not self.closed:
            self._body.close()
        super().close()


@contextmanager
def _refusals(key: str) -> Iterator[None]:
    """Turn the client library's errors into ours."""
    try:
        yield
    except ClientError as exc:
        raise _refusal_of(key, exc) from exc
    except (HTTPClientError, IncompleteReadError, BotoConnectionError, HTTPError, OSError) as exc:
        raise Unreachable(
            f"the object store did not answer for {key}: {exc}", remedy="try again; see that its address is right"
        ) from exc
    except BotoCoreError as exc:
        raise StorageDenied(
            f"the object store cannot be asked for {key}: {exc}", remedy="set its address, region and keys"
        ) from exc


def _refusal_of(key: str, exc: ClientError) -> Refusal:
    code = exc.response.get("Error", {}).get("Code", "")
    status = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in _MISSING:
        return MissingObject(f"nothing is stored under {key}")
    if code == "NoSuchBucket":
        return _no_bucket()
    if status in (429, 503) or status >= 500:
        return Unreachable(f"the object store cannot answer for {key} now: {code} {status}", remedy="try again later")
    return StorageDenied(
        f"the object store refuses {key}: {code} {status}",
        remedy="check the access key, its secret, the clock, and the right to read, write and delete in this bucket",
    )


def _no_bucket() -> StorageDenied:
    return StorageDenied("the bucket does not exist", remedy="create it, or name another one in the settings")
