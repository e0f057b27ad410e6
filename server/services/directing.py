"""The director's metadata, signed when a vehicle asks for it and kept until its target changes or its signature ages.

Version numbers of one vehicle grow strictly, whichever API process signs: the number is the primary key of what was signed,
so of two processes one is refused by the database and serves what the other has signed.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from datetime import datetime, timedelta

from sqlalchemy.exc import IntegrityError
from tuf.api.metadata import Timestamp

from model_registry.trust.director import Director
from model_registry.trust.signing import LIFETIMES
from server.database import Database
from server.errors import NotFound
from server.repositories import director as signed
from server.repositories import fleet
from server.services import deployments
from server.tables import DirectorMetadata, VehicleState

_NAME = re.compile(r"timestamp\.json|([1-9]\d{0,9})\.(root|snapshot|targets)\.json")
RENEW_BEFORE: timedelta = LIFETIMES[Timestamp.type] / 2


def metadata_file(database: Database, director: Director, vehicle_id: str, name: str, now: datetime) -> bytes:
    """One file of a vehicle's director repository. Raises NotFound."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise _missing(name)
    files = _numbered(database, vehicle_id, int(match[1])) if match[2] in ("snapshot", "targets") else None
    if files is None:
        files = current_files(database, director, vehicle_id, now)
    if name not in files:
        raise _missing(name)
    return files[name]


def _missing(name: str) -> NotFound:
    return NotFound(f"the director has no file {name!r} for this vehicle", remedy="begin again with timestamp.json")


def _numbered(database: Database, vehicle_id: str, version: int) -> Mapping[str, bytes] | None:
    with database.reading() as session:
        row = signed.numbered(session, vehicle_id, version)
        return _unpack(row.files) if row else None


def current_files(database: Database, director: Director, vehicle_id: str, now: datetime) -> Mapping[str, bytes]:
    """Everything the director says to the vehicle now, by file name. Raises NotFound."""
    try:
        return _current_or_next(database, director, vehicle_id, now)
    except IntegrityError:
        # Another process has just signed the same number; now there is something current.
        return _current_or_next(database, director, vehicle_id, now)


def _current_or_next(database: Database, director: Director, vehicle_id: str, now: datetime) -> Mapping[str, bytes]:
    with database.reading() as session:
        vehicle = fleet.vehicle(session, vehicle_id)
        if vehicle is None or vehicle.state != VehicleState.ACCEPTED:
            raise NotFound("there is no such vehicle, or it is not accepted", remedy="enrol it, and have it accepted")
        target = deployments.signed_target(session, vehicle)
        latest = signed.latest(session, vehicle_id)
    target_id = target.version_id if target else None
    if latest is not None and latest.target_version_id == target_id and latest.expires_at - now > RENEW_BEFORE:
        return _unpack(latest.files)
    number = latest.version + 1 if latest else 1
    made = director.sign(vehicle_id, (target.target, target.sha256, target.length) if target else None, number)
    row = DirectorMetadata(
        vehicle_id=vehicle_id,
        version=number,
        target_version_id=target_id,
        files=_pack(made.files),
        expires_at=made.expires,
    )
    with database.writing() as session:
        signed.add(session, row)
    return made.files


def _pack(files: Mapping[str, bytes]) -> bytes:
    return json.dumps({name: base64.b64encode(data).decode() for name, data in files.items()}).encode()


def _unpack(data: bytes) -> Mapping[str, bytes]:
    return {name: base64.b64decode(text) for name, text in json.loads(data).items()}
