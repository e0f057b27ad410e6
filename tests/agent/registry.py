"""A registry small enough to hold in a test: a real HTTP server with really signed metadata and really coded artifacts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from model_registry.contract.content import Content
from model_registry.contract.errors import Refusal
from model_registry.contract.full import encode_full
from model_registry.contract.messages import Assignment, CheckIn, Enrolment, Envelope, Hop, Instruction, VehicleReport
from model_registry.contract.targets import DeltaTarget, FullTarget
from model_registry.deltas import make_delta
from model_registry.trust.director import Director
from model_registry.trust.image_repository import ImageRepository
from model_registry.trust.keys import Keyring, verify_envelope
from model_registry.trust.roots import Repository, root_chain
from model_registry.trust.signing import utc_now
from tests.agent.models import FAMILY, HARDWARE
from tests.web import Answer, Request, http_server, ranged

TOKEN = "token-1"


@dataclass
class MetadataFiles:
    files: dict[str, bytes] = field(default_factory=dict)

    def read(self, name: str) -> bytes | None:
        return self.files.get(name)

    def write(self, name: str, data: bytes) -> None:
        self.files[name] = data


@dataclass(frozen=True)
class Published:
    target: FullTarget
    content: Content
    artifact: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.artifact).hexdigest()


class FakeRegistry:
    """``fault`` may answer any request in the registry's place. ``requests`` and ``reports`` are what arrived."""

    def __init__(self, keys: Path) -> None:
        self.keyring = Keyring.load(keys)
        self.metadata = MetadataFiles()
        self.image = ImageRepository(self.metadata, self.keyring)
        self.image.initialize()
        self.director = Director(self.keyring)
        self.director_files: dict[str, dict[str, bytes]] = {}
        self.targets: dict[str, bytes] = {}
        self.published: dict[str, Published] = {}
        self.vehicles: dict[str, Enrolment] = {}
        self.accepted = True
        self.sequences: dict[str, int] = {}
        self.replays = 0
        self.instructions: dict[str, Instruction] = {}
        self.poll_interval_s = 0.05
        self.check_ins: list[CheckIn] = []
        self.reports: list[VehicleReport] = []
        self.requests: list[Request] = []
        self.fault: Callable[[Request], Answer | None] = lambda _: None
        self.url = ""
        self._director_versions: dict[str, int] = {}

    def write_roots(self, directory: Path) -> Path:
        directory.mkdir(parents=True, exist_ok=True)
        for repository in Repository:
            (directory / f"{repository.value}-root.json").write_bytes(root_chain(self.keyring, repository, utc_now())[0])
        return directory

    def publish(self, content: Content, counter: int, *, artifact: bytes | None = None) -> Published:
        """Sign a version; ``artifact`` replaces what an honest encoder would make of it."""
        target = FullTarget(FAMILY, content.manifest.version, content.sha256, len(content.data), HARDWARE, counter)
        item = Published(target, content, artifact if artifact is not None else encode_full(content))
        self.image.add_full(target, sha256=item.sha256, length=len(item.artifact))
        self._serve(target.path, item.artifact)
        self.published[target.version] = item
        return item

    def publish_delta(self, base: str, new: str, *, artifact: bytes | None = None) -> Hop:
        one, two = self.published[base].content, self.published[new].content
        data = artifact if artifact is not None else make_delta(one, two).data
        target = DeltaTarget(FAMILY, one.sha256, two.sha256)
        self.image.add_deltas([(target, hashlib.sha256(data).hexdigest(), len(data))])
        self._serve(target.path, data)
        return Hop(target.path, self.published[new].target.path)

    def _serve(self, path: str, data: bytes) -> None:
        folder, _, name = path.rpartition("/")
        self.targets[f"{folder}/{hashlib.sha256(data).hexdigest()}.{name}"] = data

    def artifact(self, path: str) -> bytes:
        """The bytes served under a target's name."""
        folder, _, name = path.rpartition("/")
        return next(data for key, data in self.targets.items() if key.startswith(folder) and key.endswith(name))

    def assign(self, vehicle: str, version: str | None, deployment: str = "d1", *, hops: Sequence[Hop] = ()) -> None:
        item = self.published[version] if version else None
        self._director_versions[vehicle] = self._director_versions.get(vehicle, 0) + 1
        offer = (item.target, item.sha256, len(item.artifact)) if item else None
        signed = self.director.sign(vehicle, offer, self._director_versions[vehicle])
        self.director_files.setdefault(vehicle, {}).update(signed.files)
        assignment = Assignment(deployment, item.target.path, item.content.sha256, tuple(hops)) if item else None
        self.instructions[vehicle] = Instruction(self.poll_interval_s, assignment)

    def answer(self, request: Request) -> Answer:
        self.requests.append(request)
        faulty = self.fault(request)
        if faulty is not None:
            return faulty
        path = request.path
        if path.startswith("/device/v1/"):
            return self._device(path.removeprefix("/device/v1/"), request)
        if path.startswith("/repo/image/metadata/"):
            return _file(self.metadata.files.get(path.removeprefix("/repo/image/metadata/")), request)
        if path.startswith("/repo/image/targets/"):
            return _file(self.targets.get(path.removeprefix("/repo/image/targets/")), request)
        vehicle, _, name = path.removeprefix("/repo/director/").partition("/metadata/")
        return _file(self.director_files.get(vehicle, {}).get(name), request)

    def _device(self, name: str, request: Request) -> Answer:
        try:
            envelope = Envelope.from_bytes(request.body)
            if name == "enroll":
                return self._enroll(Enrolment.from_json(envelope.payload), envelope)
            vehicle = self.vehicles[str(envelope.payload["vehicle_id"])]
            verify_envelope(envelope, vehicle.public_key)
        except (Refusal, KeyError) as exc:
            return _problem(401, "not_enrolled", str(exc))
        if not self.accepted:
            return _problem(403, "not_enrolled", "not accepted yet")
        self._check_sequence(vehicle.vehicle_id, int(envelope.payload["sequence"]))
        if name == "reports":
            self.reports.append(VehicleReport.from_json(envelope.payload))
            return Answer(204)
        return self._check_in(CheckIn.from_json(envelope.payload), request)

    def _enroll(self, enrolment: Enrolment, envelope: Envelope) -> Answer:
        verify_envelope(envelope, enrolment.public_key)
        if enrolment.token != TOKEN:
            return _problem(401, "not_enrolled", "the token is not valid")
        self.vehicles[enrolment.vehicle_id] = enrolment
        self._check_sequence(enrolment.vehicle_id, enrolment.sequence)
        return Answer(201, json.dumps({"state": "accepted" if self.accepted else "pending"}).encode())

    def _check_in(self, check_in: CheckIn, request: Request) -> Answer:
        self.check_ins.append(check_in)
        body = self.instructions.get(check_in.vehicle_id, Instruction(self.poll_interval_s, None)).to_bytes()
        etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        if request.headers.get("if-none-match") == etag:
            return Answer(304, headers={"ETag": etag})
        return Answer(200, body, {"ETag": etag})

    def _check_sequence(self, vehicle: str, sequence: int) -> None:
        if sequence <= self.sequences.get(vehicle, 0):
            self.replays += 1
        self.sequences[vehicle] = sequence

    def last_report(self, deployment: str = "d1") -> VehicleReport | None:
        return next((r for r in reversed(self.reports) if r.deployment_id == deployment), None)

    def fetched(self, ending: str) -> list[Request]:
        """The GETs of a target whose name ends so."""
        return [r for r in self.requests if r.path.startswith("/repo/image/targets/") and r.path.endswith(ending)]


@contextmanager
def serving(keys: Path) -> Iterator[FakeRegistry]:
    registry = FakeRegistry(keys)
    with http_server(registry.answer) as url:
        registry.url = url
        yield registry


def _file(data: bytes | None, request: Request) -> Answer:
    return Answer(404) if data is None else ranged(data, request)


def _problem(status: int, code: str, detail: str) -> Answer:
    return Answer(status, json.dumps({"code": code, "detail": detail}).encode())
