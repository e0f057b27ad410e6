"""The agent's settings: ``config.toml`` in its state directory, written once at enrolment, the owner's to edit."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from client_agent.journal import write_durably
from client_agent.transport import TlsSettings
from model_registry.contract.errors import Refusal
from model_registry.contract.fields import NAME, Fields
from model_registry.contract.messages import VEHICLE_ID

CONFIG_FILE = "config.toml"
FILES = ("ca_file", "certificate_file", "key_file")
REQUIRED = ("server", "vehicle_id", "family", "hardware_id")
DEFAULTS = {
    "probation_s": 30.0,
    "probation_answers": 20,
    "rebuild_s": 120.0,
    "max_hops": 3,
    "max_held_bytes": 1024**3,
    "allow_plain_http": False,
}


class ConfigRefused(Refusal):
    """The settings are absent or wrong."""

    code = "config_invalid"


@dataclass(frozen=True, slots=True)
class Config:
    """``server`` is the registry's base URL, without a slash at the end.

    Probation ends well after ``probation_answers`` answers without a fault, or ``probation_s`` seconds with hardly any.
    ``rebuild_s`` is what decoding may take. Deltas are taken if there are at most ``max_hops`` of them, and no content is with
    the one before it above ``max_held_bytes``; the full artifact otherwise.
    """

    server: str
    vehicle_id: str
    family: str
    hardware_id: str
    probation_s: float = 30.0
    probation_answers: int = 20
    rebuild_s: float = 120.0
    max_hops: int = 3
    max_held_bytes: int = 1024**3
    tls: TlsSettings = field(default_factory=TlsSettings)

    def __post_init__(self) -> None:
        parts = urlsplit(self.server)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or self.server.endswith("/"):
            raise ConfigRefused(f"{self.server!r} is not a server's address", remedy="write it like https://fleet.example.com")
        for name, value, pattern in (
            ("vehicle_id", self.vehicle_id, VEHICLE_ID),
            ("family", self.family, NAME),
            ("hardware_id", self.hardware_id, NAME),
        ):
            if not pattern.fullmatch(value):
                raise ConfigRefused(f"{name} {value!r} is not a name", remedy=f"use a form like {pattern.pattern}")

    @classmethod
    def load(cls, directory: Path) -> Config:
        """Raises ConfigRefused."""
        path = directory / CONFIG_FILE
        try:
            value = tomllib.loads(path.read_text())
        except FileNotFoundError as exc:
            raise ConfigRefused(f"{path} is missing", remedy="enrol this vehicle with: deltafleet-agent enroll") from exc
        except (OSError, ValueError) as exc:
            raise ConfigRefused(f"{path} is unreadable: {exc}") from exc
        return cls._from_toml(value)

    @classmethod
    def _from_toml(cls, value: dict[str, Any]) -> Config:
        fields = Fields(DEFAULTS | value, ConfigRefused, "config").only(*REQUIRED, *DEFAULTS, *FILES)
        files = {name: fields.optional_text(name) for name in FILES}
        tls = TlsSettings(
            allow_plain_http=fields.boolean("allow_plain_http"),
            **{name: Path(file) if file else None for name, file in files.items()},
        )
        return cls(
            server=fields.text("server"),
            vehicle_id=fields.text("vehicle_id"),
            family=fields.text("family"),
            hardware_id=fields.text("hardware_id"),
            probation_s=fields.number("probation_s"),
            probation_answers=fields.integer("probation_answers"),
            rebuild_s=fields.number("rebuild_s"),
            max_hops=fields.integer("max_hops"),
            max_held_bytes=fields.integer("max_held_bytes"),
            tls=tls,
        )

    def save(self, directory: Path) -> None:
        """Raises OSError."""
        write_durably(directory / CONFIG_FILE, self.to_toml().encode())

    def to_toml(self) -> str:
        values: dict[str, Any] = {
            "server": self.server,
            "vehicle_id": self.vehicle_id,
            "family": self.family,
            "hardware_id": self.hardware_id,
            "probation_s": self.probation_s,
            "probation_answers": self.probation_answers,
            "rebuild_s": self.rebuild_s,
            "max_hops": self.max_hops,
            "max_held_bytes": self.max_held_bytes,
            "allow_plain_http": self.tls.allow_plain_http,
            "ca_file": _text(self.tls.ca_file),
            "certificate_file": _text(self.tls.certificate_file),
            "key_file": _text(self.tls.key_file),
        }
        # A JSON string, number or boolean is the same in TOML.
        return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items() if value is not None)


def _text(path: Path | None) -> str | None:
    return str(path) if path is not None else None
