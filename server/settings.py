"""Every setting of the registry, from the environment (``DELTAFLEET_*``), an optional TOML file, or the embedded default.

With nothing set, all state lives under ``data``: SQLite, files, keys, the operator token. Outgrowing one machine changes
settings, not code: ``database_url`` for PostgreSQL, ``s3_bucket`` and its companions for an S3-compatible store.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from model_registry.contract.errors import Refusal
from model_registry.contract.limits import MIB
from model_registry.contract.messages import MAX_HOPS

SETTINGS_FILE = "DELTAFLEET_SETTINGS"
Seconds = Annotated[float, Field(gt=0)]
Bytes = Annotated[int, Field(gt=0)]


class SettingsRefused(Refusal):
    """The environment or the settings file holds a value that cannot be used."""

    code = "settings_invalid"


class Settings(BaseSettings):
    """Durations end in ``_s`` (seconds), sizes in ``_bytes``."""

    model_config = SettingsConfigDict(env_prefix="DELTAFLEET_", frozen=True, extra="ignore")

    # Where state lives.
    data: Path = Path("deltafleet-data")
    database_url: str | None = None
    keys_directory: Path | None = None

    # S3 instead of files, once a bucket is named. Credentials come from the environment alone.
    s3_bucket: str | None = None
    s3_endpoint: str | None = None
    s3_public_endpoint: str | None = None
    s3_region: str = "us-east-1"
    s3_access_key: str | None = None
    s3_secret_key: SecretStr | None = None
    # Some S3-compatible servers refuse the checksum trailers that newer clients send.
    s3_checksum_when_required: bool = True
    presigned_url_s: Seconds = 900

    # Who may operate, and how the registry is reached from outside.
    operator_token: SecretStr | None = None
    external_url: str | None = None

    # What comes in.
    max_upload_bytes: Bytes = 1024 * MIB
    max_body_bytes: Bytes = 1 * MIB
    upload_lifetime_s: Seconds = 24 * 3600
    body_idle_timeout_s: Seconds = 30

    # Vehicles.
    poll_interval_s: Annotated[float, Field(gt=0, le=7 * 86_400)] = 30
    cache_poll_s: Seconds = 1
    presence_flush_s: Seconds = 1
    presence_buffer: Annotated[int, Field(gt=0)] = 100_000

    # The worker and its jobs.
    embedded_worker: bool = True
    worker_slots: Annotated[int, Field(ge=1, le=64)] = 2
    worker_idle_s: Seconds = 0.5
    rollout_tick_s: Seconds = 1
    refresh_interval_s: Seconds = 600
    job_memory_bytes: Bytes = 16 * 1024 * MIB
    job_deadline_s: Seconds = 3600
    job_lease_s: Seconds = 30
    job_retry_s: Seconds = 5
    job_attempts: Annotated[int, Field(ge=1, le=10)] = 3

    # Deltas: at most how many bases a release gets one from; what one vehicle's way may ask of it; when files go.
    # A vehicle that is offered more than its own settings allow (max_hops, max_held_bytes) takes the full artifact.
    delta_bases: Annotated[int, Field(ge=0, le=64)] = 8
    chain_hops: Annotated[int, Field(ge=1, le=MAX_HOPS)] = 3
    chain_held_bytes: Bytes = 1024 * MIB
    chain_rebuild_s: Seconds = 60
    retired_file_life_s: Seconds = 24 * 3600

    @property
    def embedded_database(self) -> bool:
        """Whether the database is the file under ``data`` that ``serve`` looks after itself."""
        return self.database_url is None

    @property
    def sqlalchemy_url(self) -> str:
        return self.database_url or f"sqlite:///{self.data.absolute() / 'deltafleet.db'}"

    @property
    def files_directory(self) -> Path:
        return self.data / "files"

    @property
    def scratch_directory(self) -> Path:
        return self.data / "tmp"

    @property
    def keys(self) -> Path:
        return self.keys_directory or self.data / "keys"

    @property
    def operator_token_file(self) -> Path:
        return self.data / "operator-token"

    @property
    def signing_lock_file(self) -> Path:
        return self.data / "signing.lock"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments before environment before the file that ``DELTAFLEET_SETTINGS`` names."""
        file = os.environ.get(SETTINGS_FILE)
        sources = (init_settings, env_settings)
        return (*sources, TomlConfigSettingsSource(settings_cls, Path(file))) if file else sources


def load_settings(**arguments: Any) -> Settings:
    """Read all sources; arguments that are None do not count. Raises SettingsRefused."""
    file = os.environ.get(SETTINGS_FILE)
    if file and not Path(file).is_file():
        raise SettingsRefused(f"the settings file {file} does not exist", remedy=f"correct or unset {SETTINGS_FILE}")
    try:
        return Settings(**{name: value for name, value in arguments.items() if value is not None})
    except ValidationError as exc:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in exc.errors(include_input=False))
        raise SettingsRefused(f"settings cannot be used: {problems}") from exc
    except ValueError as exc:
        raise SettingsRefused(f"the settings file {file} cannot be read: {exc}") from exc
