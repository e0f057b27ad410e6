"""The dashboard's static files. Their addresses carry a digest of their bytes, so browsers may keep them for good."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DIRECTORY = Path(__file__).parent / "static"
PREFIX = "/dashboard/static"
MEDIA_TYPES = {
    "dashboard.css": "text/css; charset=utf-8",
    "dashboard.js": "text/javascript; charset=utf-8",
    "favicon.svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file, as it is sent; ``digest`` is the one in its address."""

    data: bytes
    media_type: str
    digest: str

    @property
    def etag(self) -> str:
        return f'"{self.digest}"'

    def cache_control(self, asked: str | None) -> str:
        """For good when asked for by digest, else to be checked again."""
        return "public, max-age=31536000, immutable" if asked == self.digest else "no-cache"


class Assets:
    """The files of ``MEDIA_TYPES``, read once; nothing else in the directory can be asked for."""

    def __init__(self, directory: Path = DIRECTORY) -> None:
        self._assets: Mapping[str, Asset] = {
            name: _read(directory / name, media_type) for name, media_type in MEDIA_TYPES.items()
        }

    def get(self, name: str) -> Asset | None:
        return self._assets.get(name)

    def url(self, name: str) -> str:
        return f"{PREFIX}/{name}?v={self._assets[name].digest}"


def _read(path: Path, media_type: str) -> Asset:
    data = path.read_bytes()
    return Asset(data, media_type, hashlib.sha256(data).hexdigest()[:16])
