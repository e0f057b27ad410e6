"""The delta graph on a database: what vehicles are offered, what is made, what operators see."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest
from sqlalchemy import select

from model_registry.contract.messages import DeploymentState, Hop, Instruction
from server.api.checkins import CheckIns
from server.bootstrap import Registry, utc_now
from server.database import Database
from server.repositories import artifacts, rollouts
from server.services import deltas, deployments, graph, publishing
from server.services.planning import DEFAULT_BOUNDS, DELTA_ENTRY_BYTES, FULL_ENTRY_BYTES
from server.services.publishing import Compressed
from server.tables import Delta, DeltaState, Deployment, Vehicle, Version, VersionState
from tests.server.fleet import FAMILY, add_version, digest, enrolled, installed
from tests.server.releases import BSDIFF4_BYTES, NUMBERS, Releases
from tests.server.test_device_api import code_of


class TestWays:
    def test_a_vehicle_many_releases_behind_is_led_over_those_in_between(self, releases: Releases) -> None:
        releases.chain()
        releases.vehicles("2.0.0")
        releases.roll_out("5.0.0")
        assert releases.way("on-2.0.0-0") == ["3.0.0", "4.0.0", "5.0.0"]

    def test_each_hop_names_its_delta_and_the_version_it_leads_to(self, releases: Releases) -> None:
        releases.chain()
        releases.vehicles("4.0.0")
        releases.roll_out("5.0.0")
        with releases.database.reading() as session:
            offer = deployments.assignment(session, session.get_one(Vehicle, "on-4.0.0-0"))
        base, content = digest("content signs 4.0.0"), digest("content signs 5.0.0")
        hop = Hop(f"deltas/signs/{base[:16]}-{content[:16]}.dfd", "models/signs/5.0.0.dfm")
        assert offer is not None
        assert offer.hops == (hop,)

    def test_bounds_lead_to_the_leap_or_the_full_artifact(self, releases: Releases) -> None:
        releases.chain()
        releases.vehicles("1.0.0")
        releases.roll_out("5.0.0")
        assert releases.way("on-1.0.0-0") == [], "four hops are too many"
        assert releases.way("on-1.0.0-0", hops=4) == NUMBERS[1:]
        assert releases.way("on-1.0.0-0", hops=4, held_bytes=9_999) == []
        assert releases.way("on-1.0.0-0", hops=4, rebuild_s=0.001) == []
        releases.delta("1.0.0", "4.0.0", 100_000)
        assert releases.way("on-1.0.0-0") == ["4.0.0", "5.0.0"]

    def test_vehicles_with_nothing_or_something_unknown_take_the_full_artifact(self, releases: Releases) -> None:
        releases.chain()
        releases.vehicles(None)
        releases.vehicles("4.0.0")
        with releases.database.writing() as session:
            session.get_one(Vehicle, "on-4.0.0-0").installed_sha256 = "f" * 64
        releases.roll_out("5.0.0")
        assert releases.way("on-nothing-0") == releases.way("on-4.0.0-0") == []

    def test_deltas_that_cost_more_than_the_full_artifact_are_not_offered(self, releases: Releases) -> None:
        releases.delta("3.0.0", "4.0.0", 390_000)
        releases.delta("4.0.0", "5.0.0", 20_000)
        releases.vehicles("3.0.0")
        releases.roll_out("5.0.0")
        assert releases.way("on-3.0.0-0") == []

    def test_a_new_delta_anywhere_on_the_way_changes_a_waiting_vehicle_s_instruction(self, releases: Releases) -> None:
        releases.delta("4.0.0", "5.0.0")
        releases.vehicles("3.0.0")
        releases.roll_out("5.0.0")
        memory = CheckIns(releases.database, poll_interval_s=1)
        memory.poll()
        before = memory.load("on-3.0.0-0")
        releases.delta("3.0.0", "4.0.0")
        memory.poll()
        assert memory.get("on-3.0.0-0") is None
        assert memory.load("on-3.0.0-0").etag != before.etag


class TestCosts:
    def test_who_comes_by_a_chain_is_held_against_bsdiff4_by_the_same_chain(self, releases: Releases) -> None:
        releases.chain()
        releases.vehicles("3.0.0", 2)
        rollout_id = releases.roll_out("5.0.0")
        with releases.database.writing() as session:
            for deployment in session.scalars(select(Deployment)):
                deployment.state, deployment.received_delta = DeploymentState.SUCCEEDED, 40_000
            session.flush()
            assert rollouts.counterfactual_sums(session, rollout_id) == (2 * 20_000, 2 * 400_000, 2 * 2 * BSDIFF4_BYTES)

    def test_who_takes_the_full_artifact_is_held_against_a_whole_file(self, releases: Releases) -> None:
        releases.chain()
        releases.vehicles("1.0.0")
        rollout_id = releases.roll_out("5.0.0")
        with releases.database.writing() as session:
            (deployment,) = session.scalars(select(Deployment))
            deployment.state, deployment.received_full = DeploymentState.SUCCEEDED, 400_000
            session.flush()
            assert rollouts.counterfactual_sums(session, rollout_id)[2] == 10_000


class TestPlanning:
    def test_a_release_gets_deltas_for_many_vehicles_and_stragglers_take_the_chain(self, releases: Releases) -> None:
        for base, version in (("1.0.0", "2.0.0"), ("2.0.0", "3.0.0"), ("3.0.0", "4.0.0")):
            releases.delta(base, version, 1_000)
        releases.vehicles("4.0.0", 60)
        releases.vehicles("3.0.0", 30)
        releases.vehicles("2.0.0", 2)
        assert releases.plan("5.0.0") == {"4.0.0", "3.0.0"}

    def test_one_that_was_retired_is_made_again_only_when_no_way_is_left(self, releases: Releases) -> None:
        releases.chain()
        releases.delta("3.0.0", "5.0.0", 90_000)
        releases.vehicles("3.0.0", 10)
        assert ("3.0.0", "5.0.0") in releases.retire_unneeded()
        with releases.database.writing() as session:
            for gone in session.scalars(select(Delta).where(Delta.state == DeltaState.RETIRING)):
                gone.state = DeltaState.RETIRED
        assert releases.plan("5.0.0") == set(), "the chain is there"
        with releases.database.writing() as session:
            row = artifacts.delta_between(session, FAMILY, "4.0.0", "5.0.0")
            assert row is not None
            deltas.retire(session, FAMILY, row, utc_now())
            row.state = DeltaState.RETIRED
        assert releases.plan("5.0.0") == {"3.0.0"}, "what an operator retired stays retired"
        with releases.database.reading() as session:
            again = artifacts.delta_between(session, FAMILY, "3.0.0", "5.0.0")
        assert again is not None
        assert (again.retired_because, again.retired_at) == (None, None)


class TestLost:
    def published(self, database: Database, number: str, **told: Any) -> Version:
        with database.writing() as session:
            version = add_version(session, number)
            version.state = VersionState.PROCESSING
            made = Compressed(version.content_sha256 or "", 5000, version.full_sha256 or "", 1000, 20_000, 10_000, **told)
            publishing.publish(session, version, made, delta_bases=0, now=utc_now())
            return version

    def test_it_belongs_to_the_base_that_it_was_measured_from_and_to_no_other(self, database: Database) -> None:
        first, second = self.published(database, "1.0.0"), self.published(database, "2.0.0")
        third = self.published(database, "3.0.0", lost=0.03, lost_base_sha256=second.content_sha256)
        assert deltas.lost(third, second) == 0.03
        assert deltas.lost(third, first) is None

    def test_a_base_is_known_by_its_content_before_it_got_its_name(self, database: Database) -> None:
        first = self.published(database, "1.0.0", given_sha256=digest("as it left the engineer's machine"))
        second = self.published(database, "2.0.0", lost=0.02, lost_base_sha256=digest("as it left the engineer's machine"))
        assert second.lost_base_sha256 == first.content_sha256
        assert deltas.lost(second, first) == 0.02

    def test_from_a_base_that_was_never_published_it_is_the_version_s_alone(self, database: Database) -> None:
        first = self.published(database, "1.0.0")
        second = self.published(database, "2.0.0", lost=0.02, lost_base_sha256=digest("somewhere else"))
        assert (second.lost, second.lost_base_sha256, deltas.lost(second, first)) == (0.02, None, None)

    def test_exact_weights_lose_nothing_whatever_the_base(self, database: Database) -> None:
        first = self.published(database, "1.0.0")
        assert deltas.lost(self.published(database, "2.0.0", lossless=True), first) == 0.0


class TestGraph:
    @pytest.fixture
    def found(self, releases: Releases) -> graph.Graph:
        releases.chain()
        releases.delta("3.0.0", "5.0.0", 90_000)
        releases.vehicles("5.0.0", 2)
        releases.vehicles("3.0.0", 3)
        releases.vehicles("1.0.0", 4)
        releases.vehicles(None, 5)
        with releases.database.reading() as session:
            return graph.of_family(session, FAMILY, bounds=DEFAULT_BOUNDS, delta_bases=8)

    def test_it_shows_each_release_with_its_vehicles(self, found: graph.Graph) -> None:
        assert {node.version: node.vehicles for node in found.nodes} == dict(zip(NUMBERS, (4, 0, 3, 0, 2), strict=True))
        assert found.target == "5.0.0"

    def test_it_shows_who_would_take_each_artifact(self, found: graph.Graph) -> None:
        taken = {(edge.base, edge.version): edge.vehicles for edge in found.edges if edge.vehicles}
        stragglers: dict[tuple[str | None, str], int] = {("1.0.0", "2.0.0"): 4, ("2.0.0", "3.0.0"): 4, ("3.0.0", "5.0.0"): 4}
        assert taken == {**stragglers, ("3.0.0", "4.0.0"): 3, ("4.0.0", "5.0.0"): 3, (None, "5.0.0"): 5}

    def test_it_shows_the_way_of_each_base(self, found: graph.Graph) -> None:
        ways = {way.base: (way.passes, way.by_full, way.size_bytes, way.vehicles) for way in found.journeys}
        assert ways["3.0.0"] == (("4.0.0", "5.0.0"), False, 40_000, 3)
        assert ways["1.0.0"] == (("2.0.0", "3.0.0", "5.0.0"), False, 130_000, 4), "four hops would be too many"
        assert ways[None] == (("5.0.0",), True, 400_000, 5)

    def test_it_shows_what_would_be_made_and_what_entries_cost(self, found: graph.Graph) -> None:
        assert found.to_make == ("1.0.0",), "what four vehicles save pays for an entry that eleven read"
        assert found.to_retire == ()
        assert found.entry_bytes == 5 * DELTA_ENTRY_BYTES + 5 * FULL_ENTRY_BYTES

    def test_it_shows_what_would_be_retired(self, releases: Releases) -> None:
        releases.chain()
        releases.vehicles("3.0.0")
        with releases.database.reading() as session:
            found = graph.of_family(session, FAMILY, bounds=DEFAULT_BOUNDS, delta_bases=8)
        assert found.to_retire == (("2.0.0", "3.0.0", "unused"), ("1.0.0", "2.0.0", "unused"))

    def test_a_running_rollout_s_version_is_the_target(self, releases: Releases) -> None:
        releases.chain()
        releases.vehicles("1.0.0")
        releases.roll_out("3.0.0")
        with releases.database.reading() as session:
            assert graph.of_family(session, FAMILY, bounds=DEFAULT_BOUNDS, delta_bases=8).target == "3.0.0"

    def test_it_costs_a_fixed_number_of_questions(self, database: Database) -> None:
        from tests.server.test_check_ins import statements

        counts = []
        for numbers in (["1.0.0", "2.0.0"], [f"3.{n}.0" for n in range(12)]):
            Releases(database, numbers).chain()
            with statements(database) as seen, database.reading() as session:
                graph.of_family(session, FAMILY, bounds=DEFAULT_BOUNDS, delta_bases=8)
            counts.append(len(seen))
        assert counts[0] == counts[1] < 30


class TestDoors:
    @pytest.fixture
    def releases(self, registry: Registry) -> Releases:
        made = Releases(registry.database)
        made.chain()
        return made

    def test_the_graph_has_bytes_and_lost_on_each_edge(self, operator: httpx2.Client, releases: Releases) -> None:
        with releases.database.writing() as session:
            version = session.get_one(Version, releases.versions["5.0.0"].id)
            version.lost, version.lost_base_sha256 = 0.031, releases.versions["4.0.0"].content_sha256
        found = operator.get("/api/v1/families/signs/graph").json()
        edges = {(edge["base"], edge["version"]): edge for edge in found["edges"]}
        assert edges["4.0.0", "5.0.0"]["lost"] == 0.031
        assert edges["4.0.0", "5.0.0"]["bytes"] == 20_000
        assert edges["3.0.0", "4.0.0"]["lost"] is None
        assert edges[None, "5.0.0"]["bytes"] == 400_000
        assert found["nodes"][0]["lost_base"] == "4.0.0"
        shown = operator.get("/api/v1/families/signs/versions/5.0.0").json()
        assert (shown["lost"], shown["deltas"][0]["lost"]) == (0.031, 0.031)

    def test_another_target_may_be_named(self, operator: httpx2.Client, releases: Releases) -> None:
        found = operator.get("/api/v1/families/signs/graph", params={"target": "3.0.0"}).json()
        assert found["target"] == "3.0.0"
        assert [way["base"] for way in found["ways"]] == ["2.0.0", "1.0.0", None]

    def test_what_is_not_there_is_not_found(self, operator: httpx2.Client, releases: Releases) -> None:
        api = "/api/v1/families"
        assert code_of(operator.get(f"{api}/none/graph"), 404) == "not_found"
        assert code_of(operator.get(f"{api}/signs/graph", params={"target": "9.9.9"}), 404) == "not_found"
        assert code_of(operator.delete(f"{api}/signs/deltas/1.0.0/9.9.9"), 404) == "not_found"
        assert code_of(operator.post(f"{api}/none/deltas/retire"), 404) == "not_found"

    def test_a_family_without_releases_has_an_empty_graph(self, operator: httpx2.Client) -> None:
        operator.put("/api/v1/families/empty", json={"hardware_id": "generic"})
        found = operator.get("/api/v1/families/empty/graph").json()
        assert (found["target"], found["nodes"], found["edges"], found["ways"]) == (None, [], [], [])

    def test_deltas_are_retired_by_name_and_by_need(self, operator: httpx2.Client, releases: Releases) -> None:
        api = "/api/v1/families/signs/deltas"
        named = operator.delete(f"{api}/3.0.0/4.0.0").json()
        assert named == {"base": "3.0.0", "version": "4.0.0", "state": "retiring", "because": "operator"}
        assert operator.delete(f"{api}/3.0.0/4.0.0").json() == named
        rest = operator.post(f"{api}/retire").json()["items"]
        assert [(row["base"], row["version"]) for row in rest] == [("2.0.0", "3.0.0"), ("1.0.0", "2.0.0")]
        assert operator.post(f"{api}/retire").json()["items"] == []

    def test_a_check_in_offers_the_chain_and_then_asks_the_database_nothing(
        self, operator: httpx2.Client, registry: Registry, releases: Releases
    ) -> None:
        from tests.daemons import wait_until
        from tests.server.test_check_ins import statements

        car = enrolled(operator, registry)
        car.installed = installed(releases.versions["3.0.0"])
        car.check_in()
        releases.roll_out("5.0.0")

        def offered() -> bool:
            assignment = Instruction.from_bytes(car.check_in().content).assignment
            return assignment is not None and len(assignment.hops) == 2

        wait_until(offered, deadline_s=10, what="the chain")
        etag = car.check_in().headers["etag"]

        def silent() -> bool:
            with statements(registry.database) as seen:
                assert [car.check_in(etag).status_code for _ in range(10)] == [304] * 10
            return not [statement for statement in seen if "deltas" in statement or "vehicles" in statement]

        wait_until(silent, deadline_s=10, what="silence")


@pytest.mark.parametrize(
    ("lost", "on_delta", "told"),
    [
        (0.031, 0.031, ["  from 1.0.0: 20,000 bytes (model), lost 3.1 % of the update"]),
        (0.031, None, ["  from 1.0.0: 20,000 bytes (model)", "  lost 3.1 % of the update"]),
        (0.0, 0.0, ["  from 1.0.0: 20,000 bytes (model), lost 0 % of the update"]),
        (None, None, ["  from 1.0.0: 20,000 bytes (model)"]),
    ],
)
def test_publishing_tells_once_what_is_lost(lost: float | None, on_delta: float | None, told: list[str]) -> None:
    from server.commands.publishing import _lines

    delta = {"base_version": "1.0.0", "bytes": 20_000, "codec": "model", "lost": on_delta}
    made = {"family": "signs", "version": "2.0.0", "state": "published", "float32_bytes": 4, "full_bytes": 2, "lost": lost}
    assert _lines({**made, "deltas": [delta]})[1:] == told
