"""A registry's signed metadata in memory, a network that may fail, and an attacker who may hold some of the keys."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from securesystemslib.formats import encode_canonical
from securesystemslib.signer import CryptoSigner, Signer, SSlibKey

from client_agent.repositories import TrustedRepositories
from client_agent.transport import HttpStatus, Response, Transport
from model_registry.contract.errors import LimitExceeded
from model_registry.contract.messages import Hop
from model_registry.contract.targets import DeltaTarget, FullTarget
from model_registry.trust.director import Director
from model_registry.trust.image_repository import ImageRepository
from model_registry.trust.keys import Keyring, Role
from model_registry.trust.roots import Repository, root_chain

BASE_URL = "https://registry.example"
IMAGE, DIRECTOR = "/repo/image/metadata/", "/repo/director/"
NOON = datetime(2027, 3, 1, 12, tzinfo=UTC)
FAMILY, HARDWARE, VEHICLE = "signs", "ecu-1", "car-1"


class Clock:
    """A clock that a test turns."""

    def __init__(self, now: datetime = NOON) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **by: float) -> None:
        self.now += timedelta(**by)


class Killed(BaseException):
    """The process is gone: nobody catches this."""


@dataclass
class MemoryStore:
    """A metadata store; ``die_after`` writes the process is killed."""

    files: dict[str, bytes] = field(default_factory=dict)
    die_after: int | None = None
    written: list[tuple[str, bytes]] = field(default_factory=list)

    def read(self, name: str) -> bytes | None:
        return self.files.get(name)

    def write(self, name: str, data: bytes) -> None:
        if self.die_after is not None and len(self.written) >= self.die_after:
            raise Killed
        self.files[name] = data
        self.written.append((name, data))


@dataclass(frozen=True)
class Artifact:
    """A full artifact as the registry offers it."""

    target: FullTarget
    sha256: str
    length: int

    @property
    def offer(self) -> tuple[FullTarget, str, int]:
        return self.target, self.sha256, self.length


def artifact(version: str, counter: int, *, family: str = FAMILY, hardware: str = HARDWARE) -> Artifact:
    content = digest(f"content {family} {version}")
    return Artifact(
        FullTarget(family, version, content, 700_000, hardware, counter), digest(f"file {family} {version}"), 400_000
    )


def delta(base: Artifact, new: Artifact, **changes: Any) -> DeltaTarget:
    return replace(DeltaTarget(new.target.family, base.target.content_sha256, new.target.content_sha256), **changes)


def via(path: str, item: Artifact) -> tuple[Hop, ...]:
    """One delta as a check-in offers it."""
    return (Hop(path, item.target.path),)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


V1, V2, V3 = artifact("1.0.0", 1), artifact("2.0.0", 2), artifact("3.0.0", 3)


class Registry:
    """The honest registry: what it publishes is in ``files`` by URL path, as a web server would serve it."""

    def __init__(self, keyring: Keyring, clock: Clock) -> None:
        self.keyring = keyring
        self.clock = clock
        self.store = MemoryStore()
        self.image = ImageRepository(self.store, keyring, clock)
        self.director = Director(keyring, clock)
        self.director_files: dict[str, dict[str, bytes]] = {}
        self._versions: dict[str, int] = {}

    def publish(self, *artifacts: Artifact) -> None:
        for item in artifacts:
            self.image.add_full(item.target, sha256=item.sha256, length=item.length)

    def publish_delta(self, target: DeltaTarget, *, length: int = 9_000) -> str:
        self.image.add_deltas([(target, digest(f"delta {target.path}"), length)])
        return target.path

    def assign(self, item: Artifact | None, vehicle: str = VEHICLE, *, version: int | None = None) -> None:
        self._versions[vehicle] = version or self._versions.get(vehicle, 0) + 1
        signed = self.director.sign(vehicle, item.offer if item else None, self._versions[vehicle])
        self.director_files.setdefault(vehicle, {}).update(signed.files)

    @property
    def files(self) -> dict[str, bytes]:
        director = {f"{DIRECTOR}{v}/metadata/{n}": data for v, fs in self.director_files.items() for n, data in fs.items()}
        return {**{IMAGE + name: data for name, data in self.store.files.items()}, **director}

    def image_file(self, role: str) -> str:
        """Name of a role's newest file in the store."""
        if role == "timestamp":
            return "timestamp.json"
        return max(
            (n for n in self.store.files if n.partition(".")[2] == f"{role}.json"), key=lambda n: int(n.partition(".")[0])
        )

    def director_file(self, role: str, vehicle: str = VEHICLE) -> str:
        return "timestamp.json" if role == "timestamp" else f"{self._versions[vehicle]}.{role}.json"

    def roots(self) -> dict[str, bytes]:
        return {f"{r.value}-root.json": root_chain(self.keyring, r, self.clock())[0] for r in Repository}


Fault = Callable[[str, bytes | None], Iterator[bytes]]


@dataclass
class FakeTransport(Transport):
    """Serves ``files``; counts requests and bytes; ``faults`` by request number replace the answer."""

    files: Callable[[], Mapping[str, bytes]]
    faults: dict[int, Fault] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    received: int = 0

    def get(self, url: str, *, max_bytes: int, start: int = 0) -> Iterator[bytes]:
        path = urlsplit(url).path
        self.requests.append(path)
        data = self.files().get(path)
        fault = self.faults.get(len(self.requests) - 1)
        chunks = fault(url, data) if fault else served(url, data)
        taken = 0
        for chunk in chunks:
            taken += len(chunk)
            self.received += len(chunk)
            if taken > max_bytes:
                raise LimitExceeded(f"{url} sends more than {max_bytes} bytes")
            yield chunk

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Response:
        raise AssertionError("metadata is only ever fetched")


def served(url: str, data: bytes | None) -> Iterator[bytes]:
    if data is None:
        raise HttpStatus(404, url)
    yield data


@dataclass
class Vehicle:
    """One vehicle's trust, with its state on a real disk."""

    directory: Path
    transport: Transport
    clock: Clock
    vehicle_id: str = VEHICLE
    hardware_id: str = HARDWARE
    base_url: str = BASE_URL
    build_time: datetime = NOON - timedelta(days=30)

    def install(self, roots: Mapping[str, bytes]) -> Vehicle:
        self.directory.mkdir(parents=True, exist_ok=True)
        for name, data in roots.items():
            (self.directory / name).write_bytes(data)
        return self

    def boot(self) -> TrustedRepositories:
        """The agent as it starts: nothing but the disk is remembered."""
        return TrustedRepositories(
            self.directory,
            self.transport,
            base_url=self.base_url,
            vehicle_id=self.vehicle_id,
            hardware_id=self.hardware_id,
            clock=self.clock,
            build_time=self.build_time,
        )

    def resolved(self, counter_floor: int = 0) -> str | None:
        """The version that a freshly started agent would install."""
        target = self.boot().resolve(counter_floor=counter_floor)
        return target.full.version if target else None


class Attacker:
    """Writes to every store and holds the private keys of ``stolen`` roles, no others; without a key it signs with its own."""

    def __init__(self, registry: Registry, *stolen: Role) -> None:
        self._registry = registry
        self._stolen = stolen
        self._own = CryptoSigner.generate_ed25519()

    def edit_image(self, role: str, key: Role, change: Callable[[dict[str, Any]], object]) -> None:
        """Change what a role's newest file says in place, and sign it as well as the attacker can."""
        name = self._registry.image_file(role)
        self._registry.store.files[name] = self._edited(self._registry.store.files[name], key, change)

    def edit_director(self, role: str, key: Role, change: Callable[[dict[str, Any]], object]) -> None:
        files = self._registry.director_files[VEHICLE]
        name = self._registry.director_file(role)
        files[name] = self._edited(files[name], key, change)

    def signed(self, document: dict[str, Any], key: Role) -> bytes:
        """Any JSON, signed: what no honest program would write included."""
        data = str(encode_canonical(document)).encode()
        signatures = [signer.sign(data).to_dict() for signer in self._signers(key)]
        return json.dumps({"signatures": signatures, "signed": document}).encode()

    def _edited(self, data: bytes, key: Role, change: Callable[[dict[str, Any]], object]) -> bytes:
        document = cast("dict[str, Any]", json.loads(data)["signed"])
        change(document)
        return self.signed(document, key)

    def _signers(self, key: Role) -> list[Signer]:
        if key in self._stolen:
            return self._registry.keyring.signers(key)
        # The best that is left: a signature of one's own under the name of the true key.
        keyid = self._registry.keyring.public_keys(key)[0].keyid
        public = SSlibKey(keyid, "ed25519", "ed25519", self._own.public_key.keyval)
        return [CryptoSigner(self._own._private_key, public)]
