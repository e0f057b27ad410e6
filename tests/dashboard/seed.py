"""Rows as a registry would have written them: two families, some rollouts under way, some failures, in believable sizes."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy.orm import Session

from model_registry.contract.messages import DeploymentState
from server.tables import (
    Counterfactual,
    Delta,
    DeltaState,
    Deployment,
    Family,
    Job,
    JobKind,
    JobState,
    Listing,
    Presence,
    Rollout,
    RolloutMinute,
    RolloutState,
    Vehicle,
    VehicleState,
    Version,
    VersionState,
    Wave,
    WaveState,
)

NOW = datetime(2026, 11, 21, 12, 40, tzinfo=UTC)
S = DeploymentState


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(slots=True)
class Seeder:
    """Adds rows to one session; commit is the caller's."""

    session: Session
    now: datetime = NOW

    def family(self, name: str, hardware_id: str = "camera-v2") -> Family:
        row = Family(name=name, hardware_id=hardware_id, created_at=self.now)
        self.session.add(row)
        self.session.flush()
        return row

    def version(
        self, family: str, number: str, counter: int, *, full_bytes: int = 412_384, float32_bytes: int = 2_912_904
    ) -> Version:
        """A published version with what it would cost a vehicle that runs nothing."""
        name = f"{family}/{number}"
        row = Version(
            family=family,
            version=number,
            state=VersionState.PUBLISHED,
            release_counter=counter,
            upload_id=digest("upload" + name)[:32],
            upload_sha256=digest("upload" + name),
            recipe={},
            content_sha256=digest(name),
            content_bytes=full_bytes * 2,
            full_sha256=digest("full" + name),
            full_bytes=full_bytes,
            float32_bytes=float32_bytes,
            created_at=self.now,
            published_at=self.now,
            listing=Listing.LISTED,
        )
        self.session.add(row)
        self.session.flush()
        self.counterfactual(row, "", float32_bytes // 2)
        return row

    def unpublished(self, family: str, number: str, counter: int, *, state: VersionState, error: str | None = None) -> Version:
        """A version that is being made, or that could not be."""
        job_state = JobState.RUNNING if state == VersionState.PROCESSING else JobState.FAILED
        job = Job(
            kind=JobKind.COMPRESS,
            key=f"compress:{family}/{number}",
            payload={},
            state=job_state,
            progress=0.62,
            step="quantising features.7",
            lease_owner="worker",
            lease_until=self.now,
            created_at=self.now,
        )
        self.session.add(job)
        self.session.flush()
        name = f"{family}/{number}"
        row = Version(
            family=family,
            version=number,
            state=state,
            release_counter=counter,
            upload_id=digest(name)[:32],
            upload_sha256=digest(name),
            recipe={},
            job_id=job.id,
            error_code="artifact_malformed" if error else None,
            error=error,
            created_at=self.now,
        )
        self.session.add(row)
        self.session.flush()
        return row

    def counterfactual(self, version: Version, base_sha256: str, bsdiff4_bytes: int) -> None:
        self.session.add(
            Counterfactual(
                version_id=version.id,
                base_sha256=base_sha256,
                float32_full_bytes=version.float32_bytes or 0,
                compressed_full_bytes=version.full_bytes or 0,
                bsdiff4_float16_bytes=bsdiff4_bytes,
            )
        )

    def delta(self, base: Version, version: Version, size_bytes: int, *, bsdiff4_bytes: int = 1_184_220) -> Delta:
        row = Delta(
            base_id=base.id,
            version_id=version.id,
            state=DeltaState.PUBLISHED,
            codec="model",
            sha256=digest(f"delta{base.id}-{version.id}"),
            size_bytes=size_bytes,
            created_at=self.now,
        )
        self.session.add(row)
        self.counterfactual(version, base.content_sha256 or "", bsdiff4_bytes)
        return row

    def vehicle(
        self,
        name: str,
        family: str,
        runs: Version | None,
        *,
        state: VehicleState = VehicleState.ACCEPTED,
        served: int = 0,
        failed: int = 0,
        seen_s_ago: float = 10,
    ) -> Vehicle:
        row = Vehicle(
            id=name,
            family=family,
            hardware_id="camera-v2",
            state=state,
            public_key={},
            keyid=digest("key" + name),
            enrolled_at=self.now - timedelta(days=3),
            installed_version=runs.version if runs else None,
            installed_sha256=runs.content_sha256 if runs else None,
            installed_counter=runs.release_counter if runs else None,
        )
        self.session.add(row)
        self.session.flush()
        if state == VehicleState.ACCEPTED:
            self.session.add(
                Presence(
                    vehicle_id=name,
                    seen_at=self.now - timedelta(seconds=seen_s_ago),
                    sequence=7,
                    inferences_served=served,
                    inferences_failed=failed,
                )
            )
        return row

    def rollout(
        self,
        version: Version,
        *,
        state: RolloutState = RolloutState.RUNNING,
        waves: tuple[tuple[float, WaveState], ...] = ((100, WaveState.OPEN),),
        started: datetime | None = None,
        finished: datetime | None = None,
        halted_because: str | None = None,
    ) -> Rollout:
        row = Rollout(
            family=version.family,
            version_id=version.id,
            state=state,
            success_threshold_percent=100,
            error_threshold_percent=20,
            min_executed=3,
            halted_because=halted_because,
            created_at=started or self.now,
            started_at=started,
            finished_at=finished,
        )
        self.session.add(row)
        self.session.flush()
        for ordinal, (percent, wave_state) in enumerate(waves):
            self.session.add(Wave(rollout_id=row.id, ordinal=ordinal, percent=percent, state=wave_state))
        self.session.flush()
        return row

    def deployment(
        self,
        rollout: Rollout,
        vehicle_id: str,
        state: DeploymentState,
        *,
        base: Version | None = None,
        wave: int = 0,
        received: tuple[int, int, int] = (0, 0, 0),
        code: str | None = None,
        detail: str | None = None,
    ) -> Deployment:
        row = Deployment(
            rollout_id=rollout.id,
            vehicle_id=vehicle_id,
            wave=wave,
            state=state,
            code=code,
            detail=detail,
            base_version=base.version if base else None,
            base_sha256=(base.content_sha256 or "") if base else "",
            received_metadata=received[0],
            received_delta=received[1],
            received_full=received[2],
            created_at=self.now,
            updated_at=self.now,
        )
        self.session.add(row)
        self.session.flush()
        return row

    def minute(self, rollout: Rollout, start: datetime, metadata: int, delta: int, full: int) -> None:
        self.session.add(
            RolloutMinute(
                rollout_id=rollout.id,
                minute=int(start.timestamp()) // 60,
                metadata_bytes=metadata,
                delta_bytes=delta,
                full_bytes=full,
            )
        )


def busy_fleet(session: Session, now: datetime = NOW) -> Rollout:
    """Forty vehicles of two families in the middle of a rollout; returns that rollout."""
    seed, rng = Seeder(session, now), random.Random(7)
    seed.family("signs")
    seed.family("lane-markings", "camera-v3")
    v1, v2, v3 = (seed.version("signs", f"1.{n}.0", n + 1, full_bytes=412_384 + 311 * n) for n in range(3))
    for base, version, lost in ((v1, v2, 0.004), (v2, v3, 0.0312)):
        version.lost, version.lost_base_sha256 = lost, base.content_sha256
    v1.listing = Listing.UNLISTED
    seed.delta(v1, v2, 31_842)
    seed.delta(v2, v3, 24_117)
    seed.delta(v1, v3, 38_205, bsdiff4_bytes=1_201_377)
    seed.unpublished("signs", "1.3.0", 4, state=VersionState.PROCESSING)
    lanes = seed.version("lane-markings", "2.0.0", 1, full_bytes=508_112, float32_bytes=4_993_696)
    _first_rollout(seed, lanes)
    _finished_rollout(seed, v1, v2, rng)
    rollout = _running_rollout(seed, v2, v3, rng)
    seed.vehicle("van-0199", "signs", None, state=VehicleState.PENDING)
    return rollout


def _first_rollout(seed: Seeder, version: Version) -> None:
    started = seed.now - timedelta(days=1, hours=3)
    rollout = seed.rollout(
        version,
        state=RolloutState.FINISHED,
        waves=((100, WaveState.DONE),),
        started=started,
        finished=started + timedelta(minutes=9),
    )
    for index in range(8):
        name = f"tram-{2010 + index}"
        seed.vehicle(name, "lane-markings", version, served=9_120 + 31 * index)
        seed.deployment(rollout, name, S.SUCCEEDED, received=(8_411, 0, 508_112))
    seed.minute(rollout, started, 8 * 8_411, 0, 8 * 508_112)


def _finished_rollout(seed: Seeder, v1: Version, v2: Version, rng: random.Random) -> None:
    started = seed.now - timedelta(hours=20)
    rollout = seed.rollout(
        v2,
        state=RolloutState.FINISHED,
        waves=((25, WaveState.DONE), (100, WaveState.DONE)),
        started=started,
        finished=started + timedelta(minutes=26, seconds=40),
    )
    for index in range(32):
        name = f"van-{101 + index:04d}"
        seed.vehicle(name, "signs", v2, served=rng.randrange(21_000, 26_000))
        full = 412_695 if index in (5, 19) else 0
        seed.deployment(
            rollout, name, S.SUCCEEDED, base=v1, wave=int(index >= 8), received=(9_204, 0 if full else 31_842, full)
        )
    for minute in range(26):
        share = 3 if minute in (0, 1, 9, 10, 11) else 1
        seed.minute(
            rollout, started + timedelta(minutes=minute), 7_000 * share, 21_000 * share, 412_695 if minute in (2, 14) else 0
        )


RUNNING_STATES = (
    [S.SUCCEEDED] * 14
    + [S.FAILED, S.SUCCEEDED, S.SUCCEEDED, S.FAILED]
    + [S.PROBATION] * 2
    + [S.TESTING]
    + [S.REBUILDING] * 2
    + [S.DOWNLOADING] * 3
)


def _running_rollout(seed: Seeder, v2: Version, v3: Version, rng: random.Random) -> Rollout:
    started = seed.now - timedelta(minutes=38)
    rollout = seed.rollout(
        v3,
        waves=((25, WaveState.DONE), (80, WaveState.OPEN), (100, WaveState.SCHEDULED)),
        started=started,
    )
    reasons = iter(
        (
            ("self_test_failed", "golden vector 2: the largest output is 0.31 off, 0.02 is allowed"),
            ("not_enough_space", "/var/lib/deltafleet has 112 kB left, 934 kB are needed"),
        )
    )
    for index in range(32):
        state = RUNNING_STATES[index] if index < len(RUNNING_STATES) else S.PENDING
        name = f"van-{101 + index:04d}"
        code, detail = next(reasons) if state == S.FAILED else (None, None)
        full = 413_006 if index == 11 else 0
        received = {S.PENDING: (0, 0, 0), S.DOWNLOADING: (9_377, rng.randrange(24_117), 0)}.get(state, (9_377, 24_117, full))
        wave = 0 if index < 8 else 1 if index < 26 else 2
        seed.deployment(rollout, name, state, base=v2, wave=wave, received=received, code=code, detail=detail)
        if state in (S.SUCCEEDED, S.PROBATION):
            vehicle = seed.session.get_one(Vehicle, name)
            vehicle.installed_version, vehicle.installed_sha256 = v3.version, v3.content_sha256
    for minute in range(39):
        share = rng.choice((0, 1, 1, 2)) if minute not in (0, 1, 2, 20, 21, 22) else rng.choice((3, 4))
        full = 413_006 if minute == 23 else 0
        seed.minute(rollout, started + timedelta(minutes=minute), 4_690 * share, 12_058 * share, full // 4)
    return rollout
