"""Every store under one contract: the same tests run against files and against a real S3 server."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_registry.storage import ArtifactStore
from model_registry.storage.filesystem import FilesystemStore
from model_registry.storage.s3 import S3Location, S3Store


@pytest.fixture(params=["files", pytest.param("s3", marks=pytest.mark.services)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    """An empty store of each kind."""
    if request.param == "files":
        return FilesystemStore(tmp_path / "store")
    location: S3Location = request.getfixturevalue("s3_endpoint")
    return S3Store(location)
