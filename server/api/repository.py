"""The two signed repositories as vehicles fetch them: plain GETs, so that a CDN can stand in front.

Nothing here needs to be trusted: a vehicle believes signatures, lengths and digests, not this server.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, RedirectResponse

from model_registry.contract.fields import NAME
from server.api.parts import TheRegistry
from server.bootstrap import StoredMetadata
from server.errors import NotFound
from server.services import directing, publishing

router = APIRouter(prefix="/repo", tags=["signed repositories"])
JSON = "application/json"
FOREVER = "public, max-age=31536000, immutable"
NEVER = "no-cache"
TIMESTAMP = "timestamp.json"
TIMESTAMP_LIFE_S = 1.0
_METADATA = re.compile(r"[1-9]\d{0,9}\.[a-z0-9._-]{1,128}\.json|timestamp\.json")
_TARGET = re.compile(rf"(models|deltas)/({NAME.pattern})/([0-9a-f]{{64}})\.([A-Za-z0-9._-]{{1,128}})")


class MetadataCache:
    """Numbered files never change; the timestamp may be a second old. Bounded in files."""

    def __init__(self, source: StoredMetadata, *, clock: Callable[[], float] = time.monotonic, capacity: int = 256) -> None:
        self._source, self._clock, self._capacity = source, clock, capacity
        self._files: OrderedDict[str, tuple[bytes, float]] = OrderedDict()

    def read(self, name: str) -> bytes | None:
        """A file's bytes, None when there is none."""
        known = self._files.get(name)
        if known is not None and (name != TIMESTAMP or self._clock() < known[1]):
            return known[0]
        data = self._source.read(name)
        if data is not None:
            self._files[name] = (data, self._clock() + TIMESTAMP_LIFE_S)
            while len(self._files) > self._capacity:
                self._files.popitem(last=False)
        return data


@router.get("/image/metadata/{name}", response_class=Response)
def image_metadata(name: str, request: Request) -> Response:
    """A file of the image repository's signed metadata."""
    cache: MetadataCache = request.app.state.metadata
    data = cache.read(name) if _METADATA.fullmatch(name) else None
    if data is None:
        return nothing()
    return Response(data, media_type=JSON, headers={"Cache-Control": NEVER if name == TIMESTAMP else FOREVER})


@router.get("/image/targets/{path:path}", response_class=Response)
def image_target(path: str, registry: TheRegistry) -> Response:
    """An artifact, under the name that carries its digest; Range is understood. 307: fetch it from the store."""
    match = _TARGET.fullmatch(path)
    if match is None:
        raise NotFound("there is no such target", remedy="take the path from signed metadata, with its digest before the name")
    key, sha256 = publishing.artifact_key(match[3]), match[3]
    address = registry.store.url(key, expires_s=int(registry.settings.presigned_url_s))
    if address is not None:
        return RedirectResponse(address, 307, headers={"Cache-Control": "no-store"})
    file = registry.store.local_path(key)  # MissingObject is answered with 404
    headers = {"Cache-Control": FOREVER, "ETag": f'"{sha256}"'}
    return FileResponse(Path(file or ""), media_type="application/octet-stream", headers=headers)


@router.get("/director/{vehicle_id}/metadata/{name}", response_class=Response)
def director_metadata(vehicle_id: str, name: str, registry: TheRegistry) -> Response:
    """A file of what the director has signed for this vehicle."""
    try:
        data = directing.metadata_file(registry.database, registry.director, vehicle_id[:64], name, registry.clock())
    except NotFound:
        return nothing()
    return Response(data, media_type=JSON, headers={"Cache-Control": NEVER})


def nothing() -> Response:
    """A 404 without a body: every vehicle asks for the next root at every check, and pays for each byte of the answer."""
    return Response(status_code=404, headers={"Cache-Control": NEVER})
