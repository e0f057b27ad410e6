"""The vehicle's door: who is let in, what is refused, and that nothing is taken twice."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from securesystemslib.signer import CryptoSigner
from sqlalchemy import select

from model_registry.contract.messages import MAX_MESSAGE_BYTES, Instruction
from server.bootstrap import Registry, utc_now
from server.services import waves
from server.services.enrolment import make_tokens
from server.services.rollouts import RolloutEvent
from server.services.waves import RolloutPlan
from server.tables import Deployment, Presence, RolloutMinute, Vehicle, Version
from tests.daemons import wait_until
from tests.server.fleet import FAMILY, SimulatedVehicle, add_version, enrolled, installed, make_token

PROBLEM = "application/problem+json"


def code_of(answer: httpx2.Response, status: int) -> str:
    """The problem's code, after a look at its form."""
    body = answer.json()
    assert answer.status_code == status, body
    assert answer.headers["content-type"] == PROBLEM
    assert {"type", "title", "status", "detail", "code", "remedy"} <= set(body)
    assert body["status"] == status
    return str(body["code"])


@pytest.fixture
def car(anonymous: httpx2.Client, registry: Registry) -> SimulatedVehicle:
    return enrolled(anonymous, registry)


def start_rollout(registry: Registry) -> Version:
    """One open wave for everybody."""
    with registry.database.writing() as session:
        version = add_version(session, "2.0.0")
        plan = RolloutPlan(FAMILY, "2.0.0", (100,), 100, 20, 1)
        rollout = waves.create(session, plan, utc_now())
        waves.tell(session, rollout.id, RolloutEvent.START, delta_bases=0, now=utc_now())
        waves.tick(session, rollout.id, utc_now())
    return version


def deployment_id(registry: Registry) -> str:
    with registry.database.reading() as session:
        return str(session.scalars(select(Deployment.id)).one())


class TestEnrolment:
    def test_no_token_reads_as_an_option_on_a_command_line(self, registry: Registry) -> None:
        make_token(registry.database)
        with registry.database.writing() as session:
            tokens = make_tokens(session, count=200, family=FAMILY, auto_accept=True, now=utc_now())
        assert all(token.isalnum() for token in tokens)

    def test_a_token_lets_one_vehicle_in(self, anonymous: httpx2.Client, registry: Registry) -> None:
        token = make_token(registry.database)
        answer = SimulatedVehicle(anonymous, "car-1").enrol(token)
        assert (answer.status_code, answer.json()) == (201, {"state": "accepted"})
        assert code_of(SimulatedVehicle(anonymous, "car-2").enrol(token), 401) == "not_enrolled"

    def test_without_auto_accept_it_waits_for_an_operator(self, operator: httpx2.Client, registry: Registry) -> None:
        car = SimulatedVehicle(operator)
        assert car.enrol(make_token(registry.database, auto_accept=False)).json() == {"state": "pending"}
        assert code_of(car.check_in(), 403) == "not_accepted"
        assert code_of(car.report("1", "downloading"), 403) == "not_accepted"
        assert operator.post("/api/v1/vehicles/car-1/accept").json()["state"] == "accepted"
        assert car.check_in().status_code == 200
        assert operator.post("/api/v1/vehicles/car-1/reject").json()["state"] == "rejected"
        assert code_of(car.check_in(), 403) == "not_accepted"

    def test_a_lost_answer_is_asked_for_again(self, anonymous: httpx2.Client, registry: Registry) -> None:
        car, token = SimulatedVehicle(anonymous), make_token(registry.database)
        assert [car.enrol(token).status_code for _ in range(2)] == [201, 201]

    def test_a_vehicle_on_the_road_is_not_taken_over(self, car: SimulatedVehicle, registry: Registry) -> None:
        thief = SimulatedVehicle(car.http, car.vehicle_id)
        token = make_token(registry.database)
        assert code_of(thief.enrol(token), 409) == "conflict"
        assert car.check_in().status_code == 200
        assert SimulatedVehicle(car.http, "car-2").enrol(token).status_code == 201, "the token was not spent on it"

    def test_after_being_rejected_it_may_come_back_with_another_key(
        self, operator: httpx2.Client, car: SimulatedVehicle, registry: Registry
    ) -> None:
        operator.post(f"/api/v1/vehicles/{car.vehicle_id}/reject")
        again = SimulatedVehicle(operator, car.vehicle_id)
        assert again.enrol(make_token(registry.database)).status_code == 201
        assert again.check_in().status_code == 200
        assert code_of(car.check_in(), 401) == "untrusted"

    def test_a_wrong_token_is_refused(self, anonymous: httpx2.Client, registry: Registry) -> None:
        make_token(registry.database)
        assert code_of(SimulatedVehicle(anonymous).enrol("guess"), 401) == "not_enrolled"

    def test_other_hardware_is_refused(self, anonymous: httpx2.Client, registry: Registry) -> None:
        answer = SimulatedVehicle(anonymous).enrol(make_token(registry.database), hardware_id="toaster")
        assert code_of(answer, 409) == "wrong_hardware"

    def test_a_key_that_it_does_not_hold_is_refused(self, anonymous: httpx2.Client, registry: Registry) -> None:
        stolen = CryptoSigner.generate_ed25519().public_key.to_dict()
        answer = SimulatedVehicle(anonymous).enrol(make_token(registry.database), public_key=stolen)
        assert code_of(answer, 401) == "untrusted"

    @pytest.mark.parametrize("key", [{}, {"keytype": "rsa", "scheme": "rsassa-pss-sha256", "keyval": {"public": "x"}}])
    def test_a_key_of_another_kind_is_refused(self, anonymous: httpx2.Client, registry: Registry, key: object) -> None:
        answer = SimulatedVehicle(anonymous).enrol(make_token(registry.database), public_key=key)
        assert code_of(answer, 401) == "untrusted"

    def test_racing_vehicles_share_no_token(self, anonymous: httpx2.Client, registry: Registry) -> None:
        token = make_token(registry.database)
        cars = [SimulatedVehicle(anonymous, f"car-{n}") for n in range(6)]
        with ThreadPoolExecutor(6) as pool:
            statuses = sorted(pool.map(lambda car: car.enrol(token).status_code, cars))
        assert statuses == [201] + [401] * 5


class TestCheckIn:
    def test_with_nothing_to_do_it_is_told_when_to_come_again(self, car: SimulatedVehicle) -> None:
        answer = car.check_in()
        assert Instruction.from_bytes(answer.content) == Instruction(1.0, None)

    def test_the_same_instruction_is_not_sent_twice(self, car: SimulatedVehicle) -> None:
        etag = car.check_in().headers["etag"]
        again = car.check_in(etag)
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)

    def test_a_rollout_reaches_it_soon(self, car: SimulatedVehicle, registry: Registry) -> None:
        etag = car.check_in().headers["etag"]
        version = start_rollout(registry)
        wait_until(lambda: car.check_in(etag).status_code == 200, deadline_s=5, what="the instruction")
        assignment = Instruction.from_bytes(car.check_in().content).assignment
        assert assignment is not None
        assert (assignment.target_path, assignment.content_sha256) == ("models/signs/2.0.0.dfm", version.content_sha256)

    def test_what_it_runs_and_has_done_is_written_down(self, car: SimulatedVehicle, registry: Registry) -> None:
        with registry.database.writing() as session:
            runs = installed(add_version(session, "1.0.0"))
        car.check_in(installed=runs, inferences_served=41, inferences_failed=2)

        def written() -> bool:
            with registry.database.reading() as session:
                row = session.get(Presence, car.vehicle_id)
                return row is not None and (row.inferences_served, row.inferences_failed) == (41, 2)

        wait_until(written, deadline_s=5, what="the batch")
        with registry.database.reading() as session:
            assert session.get_one(Vehicle, car.vehicle_id).installed_version == "1.0.0"

    def test_an_unknown_vehicle_is_not_enrolled(self, anonymous: httpx2.Client) -> None:
        assert code_of(SimulatedVehicle(anonymous, "nobody").check_in(), 401) == "not_enrolled"

    def test_another_key_is_refused(self, car: SimulatedVehicle) -> None:
        thief = SimulatedVehicle(car.http, car.vehicle_id, sequence=50)
        assert code_of(thief.check_in(), 401) == "untrusted"

    def test_a_changed_message_is_refused(self, car: SimulatedVehicle) -> None:
        message = json.loads(car.envelope(car.check_in_payload()))
        message["payload"]["inferences_served"] = 9
        answer = car.http.post("/device/v1/check-in", content=json.dumps(message))
        assert code_of(answer, 401) == "untrusted"

    def test_a_replayed_message_changes_nothing(self, car: SimulatedVehicle, registry: Registry) -> None:
        with registry.database.writing() as session:
            old, new = installed(add_version(session, "1.0.0")), installed(add_version(session, "2.0.0"))
        recorded = car.envelope(car.check_in_payload(installed=old))
        car.http.post("/device/v1/check-in", content=recorded)
        car.check_in(installed=new)
        assert car.http.post("/device/v1/check-in", content=recorded).status_code == 200
        with registry.database.reading() as session:
            assert session.get_one(Vehicle, car.vehicle_id).installed_version == "2.0.0"

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b"[]",
            b"\xff\xfe",
            b'{"payload": {}, "keyid": "x", "signature": "00"}',
            b'{"payload": {"vehicle_id": "car-1"}, "keyid": "' + b"0" * 64 + b'", "signature": "zz"}',
            b'{"payload": {"vehicle_id": 7}, "keyid": "' + b"0" * 64 + b'", "signature": "00"}',
            b'{"payload": {"vehicle_id": "../x"}, "keyid": "' + b"0" * 64 + b'", "signature": "00"}',
            b'{"payload": {}, "payload": {}, "keyid": "' + b"0" * 64 + b'", "signature": "00"}',
            b'{"payload": ' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}",
        ],
        ids=["nothing", "half", "list", "not text", "short key id", "no hex", "number", "path", "twice", "deep"],
    )
    @pytest.mark.parametrize("door", ["check-in", "reports", "enroll"])
    def test_malformed_messages_are_refused(self, anonymous: httpx2.Client, door: str, body: bytes) -> None:
        assert code_of(anonymous.post(f"/device/v1/{door}", content=body), 400) == "message_invalid"

    @pytest.mark.parametrize(
        "change",
        [{"extra": 1}, {"sequence": -1}, {"sequence": "1"}, {"installed": {"version": "1"}}, {"inferences_served": 1.5}],
    )
    def test_signed_nonsense_is_refused_too(self, car: SimulatedVehicle, change: dict[str, object]) -> None:
        assert code_of(car.send("check-in", car.check_in_payload() | change), 400) == "message_invalid"

    def test_an_oversized_message_is_refused_before_it_is_read(self, anonymous: httpx2.Client) -> None:
        def endless() -> object:
            for _ in range(MAX_MESSAGE_BYTES // 1024 + 2):
                yield b"x" * 1024

        announced = anonymous.post("/device/v1/check-in", content=b"x" * (MAX_MESSAGE_BYTES + 1))
        assert code_of(announced, 413) == "body_too_large"
        assert anonymous.post("/device/v1/check-in", content=endless()).status_code == 413  # type: ignore[arg-type]

    def test_other_methods_are_refused(self, anonymous: httpx2.Client) -> None:
        assert code_of(anonymous.get("/device/v1/check-in"), 405) == "http_405"


class TestReports:
    def test_a_report_is_taken_once_however_often_it_comes(self, car: SimulatedVehicle, registry: Registry) -> None:
        start_rollout(registry)
        received = {"metadata": 10, "delta": 20, "full": 30}
        message = car.envelope(car.report_payload(deployment_id(registry), "downloading", received=received))
        answers = [car.http.post("/device/v1/reports", content=message).status_code for _ in range(3)]
        assert answers == [204] * 3
        with registry.database.reading() as session:
            rows = session.scalars(select(RolloutMinute)).all()
            assert sum(row.metadata_bytes + row.delta_bytes + row.full_bytes for row in rows) == 60

    def test_success_is_what_ends_the_assignment(self, car: SimulatedVehicle, registry: Registry) -> None:
        version = start_rollout(registry)
        wait_until(lambda: b"2.0.0" in car.check_in().content, deadline_s=5, what="the assignment")
        car.installed = installed(version)
        assert b"2.0.0" in car.check_in().content, "running it is not yet being well"
        assert car.report(deployment_id(registry), "succeeded").status_code == 204
        assert Instruction.from_bytes(car.check_in().content).assignment is None

    def test_a_failure_keeps_its_reason(self, operator: httpx2.Client, car: SimulatedVehicle, registry: Registry) -> None:
        start_rollout(registry)
        car.report(deployment_id(registry), "failed", code="self_test_failed", detail="off by 3")
        (shown,) = operator.get("/api/v1/rollouts/1/deployments").json()["items"]
        assert (shown["state"], shown["code"], shown["detail"]) == ("failed", "self_test_failed", "off by 3")
        assert operator.get("/api/v1/rollouts/1/bandwidth").json()["failures"] == [{"code": "self_test_failed", "count": 1}]

    @pytest.mark.parametrize("wrong", ["0", "77", "-1", "1e3", "x", "", "9" * 30, "1" * 64, "²"])
    def test_an_unknown_deployment_is_not_found(self, car: SimulatedVehicle, wrong: str) -> None:
        assert code_of(car.report(wrong, "downloading"), 404) == "not_found"

    def test_another_vehicle_s_deployment_is_not_found(self, car: SimulatedVehicle, registry: Registry) -> None:
        start_rollout(registry)
        other = enrolled(car.http, registry, "car-2")
        assert code_of(other.report(deployment_id(registry), "failed", code="x"), 404) == "not_found"

    @pytest.mark.parametrize("state", ["pending", "aborted", "finished"])
    def test_states_that_are_not_a_vehicle_s_to_report_are_refused(self, car: SimulatedVehicle, state: str) -> None:
        assert code_of(car.report("1", state), 400) == "message_invalid"
