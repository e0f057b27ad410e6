"""What a vehicle believes: pure checks on metadata whose signatures, versions and expiry the TUF client has verified already.

Nothing here reads a clock, a disk or a network; ``client_agent.repositories`` does, and calls these in the order of Uptane's
full verification (see ``TrustedRepositories.resolve``). Every function returns what may be relied on, or raises Untrusted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from tuf.api.metadata import TargetFile, Targets

from model_registry.contract.errors import LimitExceeded, RollbackRefused, Untrusted, WrongHardware
from model_registry.contract.fields import SHA256
from model_registry.contract.targets import DeltaTarget, FullTarget


@dataclass(frozen=True, slots=True)
class VerifiedTarget:
    """A full artifact that director and image repository both name for this vehicle. ``length`` in bytes."""

    path: str
    url: str
    length: int
    sha256: str
    full: FullTarget


class HopUnknown(Untrusted):
    """Signed metadata does not name a hop's delta, or the version it leads to. Both may have left since the check-in."""


@dataclass(frozen=True, slots=True)
class VerifiedFile:
    """A delta artifact whose result is to be a content that the family's role has signed.

    ``length`` of the artifact and ``content_bytes`` of its result, as they are signed.
    """

    path: str
    url: str
    length: int
    sha256: str
    delta: DeltaTarget
    content_bytes: int


def reference_time(clock: datetime, last_trusted: datetime | None, built: datetime) -> datetime:
    """The moment that expiry is judged at: a clock may be late (a flat battery says 1970), time itself never runs back."""
    return max(clock, built, last_trusted or built)


def assigned_file(director: Targets, vehicle_id: str) -> TargetFile | None:
    """The director's one target for this vehicle, None when there is nothing to run. Raises Untrusted.

    Another vehicle's genuine metadata is refused here: the signed targets name the vehicle (Uptane 2.1, 5.4.4.6).
    """
    if director.unrecognized_fields.get("vehicle_id") != vehicle_id:
        raise Untrusted("the director's metadata is for another vehicle")
    if director.delegations is not None:
        raise Untrusted("the director delegates, which it must not")
    if len(director.targets) > 1:
        raise Untrusted("the director assigns more than one model to one vehicle")
    return next(iter(director.targets.values()), None)


def described(file: TargetFile) -> FullTarget:
    """Read a full target's description, and hold its name against it. Raises Untrusted."""
    full = FullTarget.from_custom(file.custom)
    if full.path != file.path:
        raise Untrusted(f"the target {file.path!r} is described as {full.path!r}")
    sha256_of(file)
    return full


def agreed_target(director: TargetFile, image: TargetFile | None) -> FullTarget:
    """What both repositories say, in every field (length, each hash, description). Raises Untrusted where they differ."""
    full = described(director)
    if image is None:
        raise Untrusted(f"the director assigns {director.path}, which the image repository does not know")
    for name, ours, theirs in (
        ("length", director.length, image.length),
        ("hashes", director.hashes, image.hashes),
        ("description", director.custom, image.custom),
    ):
        if ours != theirs:
            raise Untrusted(f"director and image repository disagree on the {name} of {director.path}")
    return full


def check_fit(full: FullTarget, *, hardware_id: str, counter_floor: int) -> None:
    """Refuse a model for other hardware (WrongHardware) and one older than what ever ran here (RollbackRefused)."""
    if full.hardware_id != hardware_id:
        raise WrongHardware(f"{full.path} is for the hardware {full.hardware_id!r}, this vehicle has {hardware_id!r}")
    if full.release_counter < counter_floor:
        raise RollbackRefused(
            f"{full.path} has the release counter {full.release_counter}, below {counter_floor} of the installed model",
            remedy="to return to an older model, publish it again as a new version",
        )


def passed_content(path: str, file: TargetFile | None, target: VerifiedTarget) -> FullTarget:
    """A content on the way to the target: one that its family's release key signed, whatever its counter.

    Raises HopUnknown, Untrusted.

    It is held in memory, never kept, and never answers; so neither its age nor its hardware matters.
    """
    if file is None:
        raise HopUnknown(f"the way leads over {path!r}, which the image repository does not know")
    full = described(file)
    if full.family != target.full.family:
        raise Untrusted(f"the way leads over {path!r}, a model of another family")
    return full


def expected_delta(path: str, *, base_sha256: str, full: FullTarget) -> DeltaTarget:
    """What the delta named ``path`` must be, to lead from the content ``base_sha256`` to that of ``full``. Raises Untrusted."""
    wanted = DeltaTarget(full.family, base_sha256, full.content_sha256)
    if wanted.path != path:
        raise Untrusted(f"{path!r} is not the name of a delta from the installed model or the one before it to {full.path}")
    return wanted


def agreed_delta(file: TargetFile | None, wanted: DeltaTarget) -> TargetFile:
    """The delta's signed entry. Raises HopUnknown, Untrusted.

    The delta's own key is online and may be stolen. Of what it says only length and digest count, for the download; what must
    come out is what the family's release key signed.
    """
    if file is None:
        raise HopUnknown(f"the image repository does not know the delta {wanted.path}")
    sha256_of(file)
    return file


def check_saving(chain: Sequence[VerifiedFile], target: VerifiedTarget) -> None:
    """Refuse deltas that cost more bytes than the full artifact. Raises Untrusted."""
    size_bytes = sum(file.length for file in chain)
    if size_bytes > target.length:
        raise Untrusted(f"deltas of {size_bytes} bytes to {target.path} are larger than the {target.length} that they save")


def check_chain(chain: Sequence[VerifiedFile], *, base_bytes: int, max_held_bytes: int) -> None:
    """Refuse a chain with two neighbours above ``max_held_bytes`` together, as they are in memory. Raises LimitExceeded."""
    sizes = [base_bytes, *(file.content_bytes for file in chain)]
    held = max((one + two for one, two in pairwise(sizes)), default=0)
    if held > max_held_bytes:
        raise LimitExceeded(f"the deltas need {held} bytes of contents at once, {max_held_bytes} are allowed")


def sha256_of(file: TargetFile) -> str:
    """The SHA-256 of a target; a target without one cannot be checked here. Raises Untrusted."""
    digest = file.hashes.get("sha256", "")
    if not SHA256.fullmatch(digest):
        raise Untrusted(f"the target {file.path!r} is signed without a SHA-256")
    return digest


def target_url(base_url: str, file: TargetFile) -> str:
    """Where a target is fetched: under consistent snapshots its file name begins with its digest (TUF 3.1)."""
    folder, _, name = file.path.rpartition("/")
    return f"{base_url}/{folder}/{sha256_of(file)}.{name}"
