"""The composition root: the one place where settings become parts, for the API, the worker and the commands alike."""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy.exc import ArgumentError, DBAPIError

from model_registry.storage import ArtifactStore, MissingObject
from model_registry.storage.filesystem import FilesystemStore
from model_registry.trust.director import Director
from model_registry.trust.image_repository import ImageRepository
from model_registry.trust.keys import Keyring, init_keys
from server.database import Database, migrate, require_current_schema
from server.services.planning import Bounds
from server.settings import Settings, SettingsRefused

Clock = Callable[[], datetime]
IMAGE_METADATA = "metadata/image/"
MAX_METADATA_BYTES = 16 * 1024 * 1024


def utc_now() -> datetime:
    """The clock where none is injected."""
    return datetime.now(UTC)


class StoredMetadata:
    """The image repository's signed files, in the artifact store, so that every API process serves the same."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store

    def read(self, name: str) -> bytes | None:
        try:
            return self._store.read(IMAGE_METADATA + name, max_bytes=MAX_METADATA_BYTES)
        except MissingObject:
            return None

    def write(self, name: str, data: bytes) -> None:
        self._store.put(IMAGE_METADATA + name, data, sha256=None, size_bytes=len(data))


@dataclass(frozen=True, slots=True)
class Registry:
    """All parts, put together."""

    settings: Settings
    database: Database
    store: ArtifactStore
    metadata: StoredMetadata
    image_repository: ImageRepository
    director: Director
    clock: Clock

    @property
    def bounds(self) -> Bounds:
        """What one vehicle's way may ask of it."""
        settings = self.settings
        return Bounds(settings.chain_hops, settings.chain_held_bytes, settings.chain_rebuild_s)

    def close(self) -> None:
        self.database.close()


def build(settings: Settings, *, clock: Clock = utc_now) -> Registry:
    """Put the parts together on what is there already. Raises Refusal (settings, keys, storage, an outdated database)."""
    database = _database(settings)
    with _database_trouble(settings):
        require_current_schema(database)
    store = make_store(settings)
    metadata = StoredMetadata(store)
    keyring = Keyring.load(settings.keys)
    return Registry(
        settings=settings,
        database=database,
        store=store,
        metadata=metadata,
        image_repository=ImageRepository(metadata, keyring, clock),
        director=Director(keyring, clock),
        clock=clock,
    )


def prepare(settings: Settings) -> None:
    """First start on one machine: directories, keys, tables, operator token. What exists is left as it is."""
    settings.data.mkdir(parents=True, exist_ok=True)
    settings.scratch_directory.mkdir(parents=True, exist_ok=True)
    if settings.keys_directory is None:
        init_keys(settings.keys)
    if settings.embedded_database:
        migrate_database(settings)
    if settings.operator_token is None:
        _make_operator_token(settings.operator_token_file)


def migrate_database(settings: Settings) -> None:
    """Bring the database's schema to this program's."""
    database = _database(settings)
    try:
        with _database_trouble(settings):
            migrate(database)
    finally:
        database.close()


def publish_metadata(registry: Registry) -> None:
    """Make sure that there is signed metadata, if only of nothing, before the first vehicle asks. Raises KeyringRefused."""
    with registry.database.signing():
        registry.image_repository.initialize()


def make_store(settings: Settings) -> ArtifactStore:
    """Files, or S3 once a bucket is named."""
    if settings.s3_bucket is None:
        return FilesystemStore(settings.files_directory)
    from model_registry.storage.s3 import S3Location, S3Store  # noqa: PLC0415 - boto3 is slow to import and often unused

    return S3Store(
        S3Location(
            bucket=settings.s3_bucket,
            endpoint_url=settings.s3_endpoint,
            region=settings.s3_region,
            access_key_id=settings.s3_access_key,
            secret_access_key=settings.s3_secret_key.get_secret_value() if settings.s3_secret_key else None,
            public_endpoint_url=settings.s3_public_endpoint,
            checksums="when_required" if settings.s3_checksum_when_required else "when_supported",
        )
    )


def operator_token(settings: Settings) -> str:
    """The token that operators show. Raises SettingsRefused."""
    if settings.operator_token is not None:
        return settings.operator_token.get_secret_value()
    try:
        return settings.operator_token_file.read_text().strip()
    except OSError as exc:
        raise SettingsRefused(
            f"{settings.operator_token_file} cannot be read: {exc.strerror}",
            remedy="set DELTAFLEET_OPERATOR_TOKEN, or start deltafleet serve once",
        ) from exc


def same_token(given: str, expected: str) -> bool:
    """Comparison in constant time."""
    return hmac.compare_digest(given.encode(), expected.encode())


def _database(settings: Settings) -> Database:
    try:
        return Database(settings.sqlalchemy_url, lock_file=settings.signing_lock_file)
    except (ArgumentError, ModuleNotFoundError) as exc:
        # The address may hold a password: it is not repeated.
        raise SettingsRefused(
            "database_url is not the address of a database that is known here",
            remedy="use postgresql+psycopg://USER:PASSWORD@HOST/NAME, or unset DELTAFLEET_DATABASE_URL",
        ) from exc


@contextmanager
def _database_trouble(settings: Settings) -> Iterator[None]:
    """A database that cannot be opened at the start, in one line."""
    try:
        yield
    except DBAPIError as exc:
        name = str(settings.data / "deltafleet.db") if settings.embedded_database else "the database of database_url"
        reason = " ".join(str(exc.orig).split())
        remedy = "restore it from its backup" if settings.embedded_database else "is it running, and may this user reach it?"
        raise SettingsRefused(f"{name} cannot be used: {reason}", remedy=remedy) from exc


def _make_operator_token(path: Path) -> None:
    if path.exists():
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32) + "\n")
