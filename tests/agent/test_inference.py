"""Inference as another program of the vehicle sees it: the protocol, its limits, and a swap that nobody notices."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client_agent.inference.engine import MAX_PIXELS, Engine, RequestRefused, decode_picture
from client_agent.inference.live import Live
from client_agent.inference.service import MAX_BODY_BYTES, MAX_CONNECTIONS, Address, InferenceService, ListenRefused
from client_agent.selftest import prove
from client_agent.stop import Stopped, StopSignal
from model_registry.contract.content import Content
from model_registry.contract.errors import ModelUnusable, SelfTestFailed
from tests.agent.models import FAMILY, LABELS, SIDE, black_picture, encoded, make_content, picture
from tests.agent.vehicles import eventually

MODEL = f"/v2/models/{FAMILY}"


@pytest.fixture
def live(v1: Content) -> Live:
    live = Live()
    live.put(prove(v1))
    return live


@pytest.fixture
def service(live: Live) -> Iterator[InferenceService]:
    service = InferenceService(live, Address())
    service.start()
    yield service
    service.stop()


def connect(service: InferenceService) -> http.client.HTTPConnection:
    host, _, port = service.address.rpartition(":")
    return http.client.HTTPConnection(host, int(port), timeout=10)


def ask(service: InferenceService, method: str, path: str, body: bytes | None = None) -> tuple[int, dict[str, Any]]:
    connection = connect(service)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def tensor(**changes: Any) -> bytes:
    data = np.zeros(3 * SIDE * SIDE).tolist()
    value = {"name": "x", "datatype": "FP32", "shape": [1, 3, SIDE, SIDE], "data": data} | changes
    return json.dumps({"id": "q1", "inputs": [value]}).encode()


def test_the_server_describes_itself_and_its_model(service: InferenceService) -> None:
    assert ask(service, "GET", "/v2")[1]["name"] == "deltafleet-agent"
    assert ask(service, "GET", "/v2/health/live") == (200, {"live": True})
    assert ask(service, "GET", "/v2/health/ready") == (200, {"ready": True})
    assert ask(service, "GET", f"{MODEL}/ready")[0] == 200
    status, metadata = ask(service, "GET", MODEL)
    assert status == 200
    assert metadata["versions"] == ["1.0.0"]
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [1, 3, SIDE, SIDE]}]


def test_tensors_are_answered_as_the_engine_answers(service: InferenceService, v1: Content) -> None:
    values = np.random.default_rng(3).random((1, 3, SIDE, SIDE), np.float32)
    status, answer = ask(service, "POST", f"{MODEL}/infer", tensor(data=values.ravel().tolist()))
    assert status == 200
    assert (answer["model_name"], answer["model_version"], answer["id"]) == (FAMILY, "1.0.0", "q1")
    assert answer["parameters"]["content_sha256"] == v1.sha256
    output = answer["outputs"][0]
    assert (output["name"], output["datatype"], output["shape"]) == ("y", "FP32", [1, len(LABELS)])
    np.testing.assert_allclose(output["data"], Engine(v1).run({"x": values})[0].ravel(), rtol=1e-6)


def test_nested_data_are_taken_too(service: InferenceService) -> None:
    flat, nested = (tensor(data=data) for data in (np.ones(3 * SIDE * SIDE).tolist(), np.ones((1, 3, SIDE, SIDE)).tolist()))
    answers = [ask(service, "POST", f"{MODEL}/versions/1.0.0/infer", body) for body in (flat, nested)]
    assert answers[0] == answers[1]
    assert answers[0][0] == 200


def test_a_picture_is_classified_with_labels(service: InferenceService, v1: Content) -> None:
    status, answer = ask(service, "POST", f"{MODEL}/classify?top=2", picture(5))
    assert status == 200
    expected = Engine(v1).classify(picture(5), top=2)
    assert [c["label"] for c in answer["classes"]] == [LABELS[g.index] for g in expected]
    assert answer["classes"][0]["score"] >= answer["classes"][1]["score"]


BAD_QUESTIONS: dict[str, tuple[str, str, bytes | None, int]] = {
    "no json": ("POST", f"{MODEL}/infer", b"{", 400),
    "deep json": ("POST", f"{MODEL}/infer", b"[" * 200_000, 400),
    "a list": ("POST", f"{MODEL}/infer", b"[]", 400),
    "no inputs": ("POST", f"{MODEL}/infer", b"{}", 400),
    "other name": ("POST", f"{MODEL}/infer", tensor(name="y"), 400),
    "other type": ("POST", f"{MODEL}/infer", tensor(datatype="INT64", data=[0] * (3 * SIDE * SIDE)), 400),
    "no type": ("POST", f"{MODEL}/infer", tensor(datatype="BYTES"), 400),
    "other shape": ("POST", f"{MODEL}/infer", tensor(shape=[1, 3, SIDE * SIDE, 1]), 400),
    "too few": ("POST", f"{MODEL}/infer", tensor(data=[1.0]), 400),
    "ragged": ("POST", f"{MODEL}/infer", tensor(data=[[1.0], [1.0, 2.0]]), 400),
    "words": ("POST", f"{MODEL}/infer", tensor(data=["1"] * (3 * SIDE * SIDE)), 400),
    "not a number": ("POST", f"{MODEL}/infer", tensor(data=[float("nan")] * (3 * SIDE * SIDE)), 400),
    "no picture": ("POST", f"{MODEL}/classify", b"GIF89a" + bytes(50), 400),
    "half a picture": ("POST", f"{MODEL}/classify", picture()[:500], 400),
    "empty picture": ("POST", f"{MODEL}/classify", b"", 400),
    "top 0": ("POST", f"{MODEL}/classify?top=0", picture(), 400),
    "other model": ("POST", "/v2/models/other/classify", picture(), 404),
    "other version": ("GET", f"{MODEL}/versions/9.9.9", None, 404),
    "nothing there": ("GET", "/v2/models/a/b/c", None, 404),
    "root": ("GET", "/", None, 404),
    "infer by get": ("GET", f"{MODEL}/infer", None, 404),
}


@pytest.mark.parametrize("name", BAD_QUESTIONS)
def test_a_bad_question_gets_a_clear_no_and_does_not_count_against_the_model(
    service: InferenceService, live: Live, name: str
) -> None:
    method, path, body, expected = BAD_QUESTIONS[name]
    status, answer = ask(service, method, path, body)
    assert status == expected, answer
    assert answer["error"]
    assert (live.counters.served, live.counters.failed) == (0, 0)
    assert ask(service, "POST", f"{MODEL}/classify", picture())[0] == 200


def test_a_body_above_the_cap_is_refused_before_it_is_read(service: InferenceService) -> None:
    connection = connect(service)
    connection.putrequest("POST", f"{MODEL}/classify")
    connection.putheader("Content-Length", str(MAX_BODY_BYTES + 1))
    connection.endheaders()
    assert connection.getresponse().status == 400
    connection.close()


def test_a_body_without_a_length_is_refused(service: InferenceService) -> None:
    connection = connect(service)
    connection.putrequest("POST", f"{MODEL}/classify")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    assert connection.getresponse().status == 400
    connection.close()


def test_a_picture_bomb_is_refused_by_its_header() -> None:
    side = int(MAX_PIXELS**0.5) + 1
    bomb = encoded(np.zeros((side, side, 3), np.uint8))
    assert len(bomb) < 200_000
    with pytest.raises(RequestRefused, match="pixels"):
        decode_picture(bomb)


def test_without_a_model_the_service_is_alive_and_not_ready() -> None:
    service = InferenceService(Live(), Address())
    service.start()
    try:
        assert ask(service, "GET", "/v2/health/live")[0] == 200
        assert ask(service, "GET", "/v2/health/ready")[0] == 503
        status, answer = ask(service, "POST", f"{MODEL}/classify", picture())
        assert (status, answer["code"]) == (503, "no_model")
    finally:
        service.stop()


def test_connections_beyond_the_cap_are_turned_away_and_the_others_served(service: InferenceService) -> None:
    host, _, port = service.address.rpartition(":")
    idle = [socket.create_connection((host, int(port))) for _ in range(MAX_CONNECTIONS + 8)]
    turned_away = idle[-1]
    turned_away.settimeout(5)
    assert b"503" in turned_away.recv(200)
    for connection in idle:
        connection.close()

    def answered() -> bool:
        try:
            return ask(service, "GET", "/v2/health/ready")[0] == 200
        except (ValueError, OSError, http.client.HTTPException):
            return False

    eventually(answered, "served again")


@pytest.mark.parametrize("address", ["0.0.0.0:80", "example.com:80", "127.0.0.1", "127.0.0.1:x", "unix:", "8.8.8.8:1", ""])
def test_inference_is_for_this_machine_alone(address: str) -> None:
    with pytest.raises(ListenRefused):
        Address.parse(address)


def test_a_socket_path_that_is_too_long_is_named_as_such(tmp_path: Path, live: Live) -> None:
    with pytest.raises(ListenRefused, match="too long"):
        InferenceService(live, Address(path=tmp_path / ("s" * 120)))


def test_a_socket_left_by_a_killed_agent_is_taken_over_and_a_living_one_is_not(tmp_path: Path, live: Live) -> None:
    address = Address(path=tmp_path / "s.sock")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(address.path))
    service = InferenceService(live, address)
    service.start()
    with pytest.raises(ListenRefused, match="another program"):
        InferenceService(live, address)
    service.stop()
    assert not (tmp_path / "s.sock").exists()
    (tmp_path / "s.sock").write_text("a file")
    with pytest.raises(ListenRefused, match="not a socket"):
        InferenceService(live, address)


def test_stopping_answers_what_has_arrived(live: Live, v1: Content) -> None:
    service = InferenceService(live, Address())
    service.start()
    arrived, go_on, answers = threading.Event(), threading.Event(), []
    engine = live.engine
    run = engine.session.run

    class Slow:
        manifest = engine.session.manifest

        def run(self, inputs: Any) -> Any:
            arrived.set()
            go_on.wait(10)
            return run(inputs)

    engine.session = Slow()  # type: ignore[assignment]
    client = threading.Thread(target=lambda: answers.append(ask(service, "POST", f"{MODEL}/classify", picture())))
    client.start()
    assert arrived.wait(10)
    stopper = threading.Thread(target=service.stop)
    stopper.start()
    go_on.set()
    client.join(10)
    stopper.join(10)
    assert [status for status, _ in answers] == [200]
    with pytest.raises(OSError, match="refused"):
        ask(service, "GET", "/v2/health/live")


def test_forty_swaps_under_load_drop_nothing(v1: Content, v2: Content) -> None:
    live = Live()
    live.put(prove(v1))
    service = InferenceService(live, Address())
    service.start()
    over, statuses, versions = threading.Event(), [], set()

    def client(seed: int) -> None:
        connection = connect(service)
        while not over.is_set():
            connection.request("POST", f"{MODEL}/classify", picture(seed))
            response = connection.getresponse()
            answer = json.loads(response.read())
            statuses.append(response.status)
            versions.add(answer.get("model_version"))
        connection.close()

    clients = [threading.Thread(target=client, args=(seed,)) for seed in range(4)]
    for thread in clients:
        thread.start()
    for turn in range(40):
        before = len(statuses)
        live.put(prove((v2, v1)[turn % 2]))
        eventually(lambda before=before: len(statuses) > before, "answers between swaps")  # type: ignore[misc]
    over.set()
    for thread in clients:
        thread.join(10)
    service.stop()
    assert set(statuses) == {200}
    assert versions == {"1.0.0", "2.0.0"}
    assert (live.counters.served, live.counters.failed) == (len(statuses), 0)


def test_a_swapped_out_model_is_freed(v1: Content, v2: Content) -> None:
    import gc
    import weakref

    live = Live()
    live.put(prove(v1))
    former = weakref.ref(live.engine)
    live.put(prove(v2))
    gc.collect()
    assert former() is None


def test_probation_ends_early_when_enough_answers_were_good(live: Live) -> None:
    for _ in range(3):
        live.classify(picture(), 1)
    started = time.monotonic()
    assert live.verdict(answers=3, seconds=60, stop=StopSignal())
    assert time.monotonic() - started < 5


def test_probation_ends_badly_when_answers_are_not_numbers() -> None:
    live = Live()
    live.put(prove(make_content("2.0.0", brittle=True)))
    for _ in range(3):
        with pytest.raises(ModelUnusable, match="not finite"):
            live.classify(black_picture(), 1)
    assert not live.verdict(answers=1, seconds=60, stop=StopSignal())
    assert live.counters.failed == 3


def test_one_odd_answer_in_many_is_forgiven() -> None:
    live = Live()
    live.put(prove(make_content("2.0.0", brittle=True)))
    for seed in range(30):
        live.classify(picture(seed), 1)
    with pytest.raises(ModelUnusable):
        live.classify(black_picture(), 1)
    assert live.verdict(answers=5, seconds=0, stop=StopSignal())


def test_a_stop_ends_probation_at_once(live: Live) -> None:
    stop = StopSignal()
    threading.Timer(0.1, stop.set).start()
    with pytest.raises(Stopped):
        live.verdict(answers=1000, seconds=60, stop=stop)


def test_the_self_test_refuses_a_model_without_weights(v1: Content) -> None:
    with pytest.raises(ModelUnusable):
        prove(Content(v1.manifest, v1.graph, v1.tensors[:1]))


def test_the_self_test_refuses_nan_even_where_no_golden_vector_looks() -> None:
    content = make_content("2.0.0", change=lambda w: w * float("nan"), golden_change=lambda w: w)
    with pytest.raises((SelfTestFailed, ModelUnusable)):
        prove(content)
