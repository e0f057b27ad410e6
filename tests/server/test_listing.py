"""Versions in signed metadata: named while somebody may look them up, gone afterwards, named again when asked for."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import update

from model_registry.contract.targets import DeltaTarget
from server.bootstrap import Registry, build, utc_now
from server.jobs import retiring
from server.repositories import artifacts, listings, rollouts
from server.services import deployments, listing, waves
from server.services.planning import FULL_ENTRY_BYTES
from server.services.rollouts import RolloutEvent
from server.services.waves import RolloutPlan
from server.tables import DeltaState, Family, Listing, Vehicle, Version, VersionState, WaveState
from server.worker import tick_rollouts
from tests.server.conftest import settings_in
from tests.server.fleet import FAMILY, add_version
from tests.server.releases import Releases
from tests.server.test_jobs import role_file, signed_targets

ROLE = "family-signs"


class Published(Releases):
    """Releases whose full artifacts are signed, as their jobs leave them."""

    def __init__(self, registry: Registry, numbers: list[str]) -> None:
        super().__init__(registry.database, numbers)
        self.registry = registry
        for version in self.versions.values():
            self.sign(version)

    def sign(self, version: Version) -> None:
        with self.database.reading() as session:
            signed = deployments.signed_version(version, session.get_one(Family, FAMILY))
        self.registry.image_repository.add_full(signed.target, sha256=signed.sha256, length=signed.length)

    def release(self, number: str) -> None:
        with self.database.writing() as session:
            self.versions[number] = add_version(session, number, full_bytes=400_000)
        self.sign(self.versions[number])

    def signed_delta(self, base: str, number: str) -> None:
        self.delta(base, number)
        ends = (self.versions[base].content_sha256 or "", self.versions[number].content_sha256 or "")
        self.registry.image_repository.add_deltas([(DeltaTarget(FAMILY, *ends), "d" * 64, 20_000)])

    def draft(self, number: str) -> int:
        with self.database.writing() as session:
            return waves.create(session, RolloutPlan(FAMILY, number, (100,), 100, 20, 1), utc_now()).id

    def tell(self, rollout_id: int, event: RolloutEvent) -> None:
        with self.database.writing() as session:
            waves.tell(session, rollout_id, event, delta_bases=0, now=utc_now())

    def is_open(self, rollout_id: int) -> bool:
        tick_rollouts(self.registry)
        with self.database.reading() as session:
            return rollouts.waves(session, rollout_id)[0].state == WaveState.OPEN

    def named(self) -> set[str]:
        """By signed metadata."""
        return {path.removeprefix(f"models/{FAMILY}/").removesuffix(".dfm") for path in signed_targets(self.registry, ROLE)}

    def enter(self, number: str, listing: Listing | None) -> None:
        """Write a row as nobody here does."""
        with self.database.writing() as session:
            session.get_one(Version, self.versions[number].id).listing = listing

    def listings(self) -> dict[str, str | None]:
        with self.database.reading() as session:
            return {version.version: version.listing for version in artifacts.published_versions(session, FAMILY)}

    def vouched_for(self, vehicle_id: str) -> str | None:
        with self.database.reading() as session:
            signed = deployments.signed_target(session, session.get_one(Vehicle, vehicle_id))
        return signed.target.version if signed else None

    def editions(self) -> int:
        return len(list((self.registry.settings.files_directory / "metadata/image").iterdir()))

    def role_bytes(self) -> int:
        return len(role_file(self.registry, ROLE))


def look(registry: Registry) -> None:
    """What a worker does by the clock."""
    for step in (retiring.retire_unneeded, retiring.withdraw, retiring.name_again):
        step(registry)


@pytest.fixture
def published(registry: Registry) -> Published:
    return Published(registry, ["1.0.0", "2.0.0", "3.0.0"])


class TestLeaving:
    def test_what_nobody_is_to_run_leaves_and_the_newest_stays(self, published: Published) -> None:
        published.vehicles("1.0.0")
        look(published.registry)
        assert published.named() == {"3.0.0"}, "a vehicle does not look up what it runs"
        assert published.listings() == {"1.0.0": Listing.UNLISTED, "2.0.0": Listing.UNLISTED, "3.0.0": Listing.LISTED}

    def test_what_a_rollout_brings_stays_until_the_rollout_is_over(self, published: Published) -> None:
        published.vehicles("1.0.0")
        rollout_id = published.draft("2.0.0")
        for event in (RolloutEvent.START, RolloutEvent.PAUSE, RolloutEvent.ABORT):
            look(published.registry)
            assert published.named() == {"2.0.0", "3.0.0"}, f"before {event}"
            published.tell(rollout_id, event)
        look(published.registry)
        assert published.named() == {"3.0.0"}

    def test_what_a_delta_leads_to_stays(self, published: Published) -> None:
        published.vehicles("1.0.0")
        published.signed_delta("1.0.0", "2.0.0")
        published.signed_delta("2.0.0", "3.0.0")
        look(published.registry)
        assert published.named() == {"2.0.0", "3.0.0"}
        with published.database.writing() as session:
            session.execute(update(Vehicle).values(installed_sha256=published.versions["3.0.0"].content_sha256))
        before = published.editions()
        look(published.registry)
        assert published.states()["1.0.0", "2.0.0"][0] == DeltaState.RETIRED
        assert published.named() == {"3.0.0"}
        assert published.editions() == before + 3, "both roles and a snapshot: they leave together"

    def test_a_delta_in_the_making_keeps_its_result(self, published: Published) -> None:
        published.plan("2.0.0", limit=1)
        look(published.registry)
        assert published.named() == {"2.0.0", "3.0.0"}

    def test_metadata_of_a_fleet_that_keeps_up_does_not_grow(self, published: Published) -> None:
        look(published.registry)
        before = published.role_bytes()
        for n in range(4, 16):
            published.release(f"{n}.0.0")
            look(published.registry)
        assert published.named() == {"15.0.0"}
        assert abs(published.role_bytes() - before) <= 8, "digits of version and counter"

    def test_an_entry_s_price_is_about_what_signed_metadata_shows(self, published: Published) -> None:
        before = published.role_bytes()
        published.release("4.0.0")
        assert abs(published.role_bytes() - before - FULL_ENTRY_BYTES) < 20

    def test_a_release_in_the_making_is_not_the_newest_yet(self, published: Published) -> None:
        with published.database.writing() as session:
            version = add_version(session, "4.0.0")
            version.state, version.listing, version.published_at = VersionState.PROCESSING, None, None
        look(published.registry)
        assert published.named() == {"3.0.0"}

    def test_families_do_not_count_for_each_other(self, published: Published) -> None:
        with published.database.writing() as session:
            for number in ("1.0.0", "9.0.0"):
                add_version(session, number, family="lanes")
        look(published.registry)
        assert published.named() == {"3.0.0"}

    def test_when_nothing_is_to_leave_nothing_is_signed(self, published: Published) -> None:
        look(published.registry)
        before = published.editions()
        look(published.registry)
        assert published.editions() == before


class TestComingBack:
    def test_a_wave_waits_until_its_version_is_named_again(self, published: Published) -> None:
        published.vehicles(None)
        entry = signed_targets(published.registry, ROLE)["models/signs/2.0.0.dfm"]
        look(published.registry)
        rollout_id = published.draft("2.0.0")
        published.tell(rollout_id, RolloutEvent.START)
        assert not published.is_open(rollout_id)
        retiring.name_again(published.registry)
        assert signed_targets(published.registry, ROLE)["models/signs/2.0.0.dfm"] == entry
        assert published.is_open(rollout_id)
        assert published.vouched_for("on-nothing-0") == "2.0.0"

    def test_one_that_is_asked_for_while_it_leaves_stays(self, published: Published) -> None:
        look(published.registry)
        published.release("4.0.0")
        retiring.retire_unneeded(published.registry)
        published.draft("3.0.0")
        before = published.editions()
        look(published.registry)
        assert published.named() == {"3.0.0", "4.0.0"}
        assert published.listings()["3.0.0"] == Listing.LISTED
        assert published.editions() == before, "it never left"

    def test_operators_see_what_a_wave_waits_for(self, published: Published, operator: httpx2.Client) -> None:
        published.vehicles(None)
        look(published.registry)
        rollout_id = published.draft("2.0.0")
        published.tell(rollout_id, RolloutEvent.START)
        where = f"/api/v1/rollouts/{rollout_id}"
        assert "names the version again" in operator.get(where).json()["waiting_until"]
        retiring.name_again(published.registry)
        assert operator.get(where).json()["waiting_until"] is None

    def test_no_way_leads_over_what_is_not_named(self, published: Published) -> None:
        published.vehicles("1.0.0")
        published.delta("1.0.0", "2.0.0")
        published.delta("2.0.0", "3.0.0")
        published.roll_out("3.0.0")
        assert published.way("on-1.0.0-0") == ["2.0.0", "3.0.0"]
        published.enter("2.0.0", Listing.UNLISTED)
        assert published.way("on-1.0.0-0") == []

    def test_the_director_vouches_for_what_signed_metadata_names(self, published: Published) -> None:
        published.vehicles("2.0.0")
        assert published.vouched_for("on-2.0.0-0") == "2.0.0"
        look(published.registry)
        assert published.vouched_for("on-2.0.0-0") is None

    def test_operators_see_what_is_named(self, published: Published, operator: httpx2.Client) -> None:
        look(published.registry)
        versions = operator.get("/api/v1/families/signs/versions").json()["items"]
        assert {row["version"]: row["listed"] for row in versions} == {"1.0.0": False, "2.0.0": False, "3.0.0": True}
        graph = operator.get("/api/v1/families/signs/graph").json()
        assert {node["version"]: node["listed"] for node in graph["nodes"]} == {"1.0.0": False, "2.0.0": False, "3.0.0": True}
        assert graph["metadata_bytes"] == FULL_ENTRY_BYTES


class TestTrouble:
    @contextmanager
    def without_release_key(self, data: Path) -> Iterator[Registry]:
        """The same registry from now on where the release key is kept elsewhere."""
        (key,) = (data / "keys").glob("family*")
        key.unlink()
        built = build(settings_in(data))
        yield built
        built.close()

    def test_without_the_release_key_nothing_leaves(self, published: Published, data: Path) -> None:
        with self.without_release_key(data) as registry:
            look(registry)
        assert published.named() == {"1.0.0", "2.0.0", "3.0.0"}
        assert set(published.listings().values()) == {Listing.LISTED}

    def test_what_left_comes_back_only_with_the_release_key(self, published: Published, data: Path) -> None:
        look(published.registry)
        published.draft("2.0.0")
        with self.without_release_key(data) as registry:
            (refused,) = retiring.name_again(registry)
        assert "run this where that key is kept" in refused
        retiring.name_again(published.registry)
        assert published.named() == {"2.0.0", "3.0.0"}

    def test_a_key_that_is_lost_while_versions_leave_holds_up_no_delta(self, published: Published, data: Path) -> None:
        published.signed_delta("1.0.0", "2.0.0")
        retiring.retire_unneeded(published.registry)
        retiring.retire_unneeded(published.registry)
        with self.without_release_key(data) as registry:
            retiring.withdraw(registry)
        assert published.states()["1.0.0", "2.0.0"][0] == DeltaState.RETIRED
        assert published.named() == {"1.0.0", "2.0.0", "3.0.0"}
        assert set(published.listings().values()) == {Listing.LISTED}

    def test_one_that_cannot_be_signed_holds_up_no_other(self, published: Published, data: Path) -> None:
        look(published.registry)
        published.release("4.0.0")
        retiring.retire_unneeded(published.registry)
        for number in ("1.0.0", "3.0.0"):
            published.draft(number)
        with self.without_release_key(data) as registry:
            (refused,) = retiring.name_again(registry)
        assert "signs 1.0.0 waits" in refused
        assert published.listings()["3.0.0"] == Listing.LISTED, "signed metadata names it still"

    @pytest.mark.parametrize("said", [Listing.LISTED, None])
    def test_a_row_that_says_more_than_signed_metadata_is_found(self, published: Published, said: Listing | None) -> None:
        """From a backup of the database, or by a program that knows nothing of listings."""
        look(published.registry)
        published.enter("1.0.0", said)
        published.enter("3.0.0", said)
        published.draft("1.0.0")
        look(published.registry)
        assert published.named() == {"1.0.0", "3.0.0"}
        assert published.listings() == {"1.0.0": "listed", "2.0.0": "unlisted", "3.0.0": "listed"}

    def test_a_name_that_its_row_does_not_know_of_is_found(self, published: Published) -> None:
        look(published.registry)
        published.sign(published.versions["1.0.0"])
        assert published.named() == {"1.0.0", "3.0.0"}
        look(published.registry)
        assert published.named() == {"3.0.0"}

    def test_a_worker_that_died_before_the_row_was_written_is_no_harm(self, published: Published) -> None:
        retiring.retire_unneeded(published.registry)
        published.registry.image_repository.retire(["models/signs/1.0.0.dfm"])
        retiring.withdraw(published.registry)
        assert published.named() == {"3.0.0"}
        published.draft("1.0.0")
        published.sign(published.versions["1.0.0"])
        retiring.name_again(published.registry)
        assert published.listings()["1.0.0"] == Listing.LISTED

    def test_two_workers_look_at_once(self, published: Published) -> None:
        published.draft("1.0.0")
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(look, [published.registry] * 4))
        assert published.named() == {"1.0.0", "3.0.0"}


class TestOnBothDatabases:
    """The questions themselves, and who waits for whom."""

    def test_what_is_needed(self, releases: Releases) -> None:
        releases.vehicles("1.0.0")
        releases.roll_out("2.0.0")
        releases.delta("2.0.0", "3.0.0")
        with releases.database.writing() as session:
            add_version(session, "9.0.0", family="lanes")
            assert [version.version for version in listings.unneeded(session, FAMILY)] == ["1.0.0", "4.0.0"]
            listing.let_go(session, FAMILY)
        with releases.database.writing() as session:
            assert [version.version for version in listings.leaving(session)] == ["1.0.0", "4.0.0"]
            assert not listings.missing(session)
            session.execute(update(Version).values(listing=Listing.UNLISTED))
            assert {version.version for version in listings.missing(session)} == {"2.0.0", "3.0.0", "5.0.0", "9.0.0"}

    def test_a_rollout_that_starts_meanwhile_keeps_its_version(self, releases: Releases) -> None:
        releases.vehicles(None)
        with releases.database.writing() as session:
            rollout_id = waves.create(session, RolloutPlan(FAMILY, "2.0.0", (100,), 100, 20, 1), utc_now()).id
            waves.tell(session, rollout_id, RolloutEvent.ABORT, delta_bases=0, now=utc_now())

        def let_go() -> None:
            with releases.database.writing() as session:
                listing.let_go(session, FAMILY)

        with ThreadPoolExecutor(1) as pool:
            with releases.database.writing() as session:
                artifacts.hold_family(session, FAMILY)
                leaves = pool.submit(let_go)
                waves.create(session, RolloutPlan(FAMILY, "2.0.0", (100,), 100, 20, 1), utc_now())
                with pytest.raises(TimeoutError):
                    leaves.result(timeout=0.3)
            leaves.result(timeout=30)
        with releases.database.reading() as session:
            rows = {version.version: version.listing for version in artifacts.published_versions(session, FAMILY)}
        assert (rows["1.0.0"], rows["2.0.0"]) == (Listing.LEAVING, Listing.LISTED)
