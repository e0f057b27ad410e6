"""Fixtures of real services: a PostgreSQL database and an S3 bucket, fresh for every test that asks.

The servers are started once and shared by all test processes of a run. Where a program is missing, the test is skipped with a
line that names it; under ``CI=true`` it fails, because a run that proves nothing must not look green.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import psycopg
import pytest
from botocore.config import Config

from model_registry.storage.s3 import S3Location
from tests.service_keeper import lease, postgres_program

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

IN_CI = os.environ.get("CI", "").lower() in ("1", "true")


def require_programs(**found: str | None) -> None:
    """Skip the test, or fail it in CI, when one of the programs (name: path or None) is missing."""
    missing = sorted(name for name, path in found.items() if not path)
    if not missing:
        return
    line = f"missing: {', '.join(missing)} (scripts/test-setup installs what the tests need)"
    if IN_CI:
        pytest.fail(line)
    pytest.skip(line)


@pytest.fixture(scope="session")
def shared_by_all_workers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all test processes of this run have in common."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def postgres_server(shared_by_all_workers: Path) -> Iterator[str]:
    """Address of the administrator's database."""
    require_programs(postgres=postgres_program("postgres"), initdb=postgres_program("initdb"))
    with lease("postgres", shared_by_all_workers / "postgres") as server:
        yield server["url"]


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """Address of an empty database, as SQLAlchemy takes it; it is dropped after the test."""
    with fresh_database(postgres_server) as url:
        yield url


@contextmanager
def fresh_database(postgres_server: str) -> Iterator[str]:
    """An empty database for as long as the block lasts."""
    name = f"test_{secrets.token_hex(8)}"
    plain = postgres_server.replace("+psycopg", "")
    with psycopg.connect(plain, autocommit=True) as administrator:
        administrator.execute(f"CREATE DATABASE {name}")
    yield f"{postgres_server.rpartition('/')[0]}/{name}"
    with psycopg.connect(plain, autocommit=True) as administrator:
        administrator.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def s3_server(shared_by_all_workers: Path) -> Iterator[dict[str, str]]:
    """Endpoint and keys of a real S3 server."""
    require_programs(**{name: shutil.which(name) for name in ("ceph", "ceph-mon", "ceph-osd", "radosgw", "radosgw-admin")})
    with lease("ceph", shared_by_all_workers / "ceph") as server:
        yield server


@pytest.fixture(scope="session")
def s3_administrator(s3_server: dict[str, str]) -> S3Client:
    """A client that may make buckets."""
    return boto3.session.Session().client(
        "s3",
        endpoint_url=s3_server["endpoint_url"],
        region_name="us-east-1",
        aws_access_key_id=s3_server["access_key_id"],
        aws_secret_access_key=s3_server["secret_access_key"],
        config=Config(s3={"addressing_style": "path"}),
    )


@pytest.fixture
def s3_endpoint(s3_server: dict[str, str], s3_administrator: S3Client) -> S3Location:
    """An empty bucket on a real S3 server, and how to reach it. It goes with the server."""
    return fresh_bucket(s3_server, s3_administrator)


def fresh_bucket(s3_server: dict[str, str], s3_administrator: S3Client) -> S3Location:
    """A new bucket of the server."""
    bucket = f"test-{secrets.token_hex(8)}"
    s3_administrator.create_bucket(Bucket=bucket)
    return S3Location(bucket=bucket, **s3_server)  # type: ignore[arg-type]
