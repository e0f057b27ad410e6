"""The dashboard's addresses over HTTP: what they answer, forbid and bound, and that the process still ends when asked."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2
import pytest

from server.dashboard.live import MOST_FOLLOWERS
from server.tables import Deployment, Listing, WaveState
from tests.dashboard.host import Served, serving
from tests.dashboard.seed import S, Seeder

BUSY = 3
WAIT_S = 30.0
STATIC = ("dashboard.css", "dashboard.js", "favicon.svg")


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=served.url, timeout=WAIT_S) as client:
        yield client


@contextmanager
def stream(url: str) -> Iterator[httpx2.Response]:
    with httpx2.Client(timeout=WAIT_S, verify=False) as client, client.stream("GET", url) as response:
        yield response


def next_event(lines: Iterator[str]) -> dict[str, str]:
    """The data of the next event; comments and other fields are passed over."""
    data = next(line for line in lines if line.startswith("data:"))
    regions: dict[str, str] = json.loads(data.removeprefix("data:"))
    return regions


def status_of(url: str) -> int:
    """The status of a stream that is left at once."""
    with stream(url) as response:
        return response.status_code


@pytest.mark.parametrize(
    "path",
    ["/dashboard", f"/dashboard/rollouts/{BUSY}", f"/dashboard/rollouts/{BUSY}?state=failed", "/dashboard/families/signs"],
)
def test_pages_forbid_everything_that_is_not_our_own(client: httpx2.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self'",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "<script>" not in answer.text
    assert " style=" not in answer.text


@pytest.mark.parametrize("name", STATIC)
def test_files_are_kept_for_good_under_their_digest(client: httpx2.Client, name: str) -> None:
    page = client.get("/dashboard").text
    address = next(part for part in page.split('"') if f"/static/{name}?" in part)
    answer = client.get(address)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert client.get(f"/dashboard/static/{name}").headers["cache-control"] == "no-cache"
    assert client.get(f"/dashboard/static/{name}?v=0").headers["cache-control"] == "no-cache"
    assert client.get(address, headers={"If-None-Match": answer.headers["etag"]}).status_code == 304


@pytest.mark.parametrize("name", ["nothing.css", "../views.py", "..%2fviews.py", "%2e%2e/templates/base.html"])
def test_no_other_file_can_be_had(client: httpx2.Client, name: str) -> None:
    assert client.get(f"/dashboard/static/{name}").status_code == 404


def test_browsers_find_an_icon(client: httpx2.Client) -> None:
    assert client.get("/favicon.ico").headers["content-type"] == "image/svg+xml"


def test_an_unknown_rollout_says_so_and_leads_back(client: httpx2.Client) -> None:
    answer = client.get("/dashboard/rollouts/999")
    assert answer.status_code == 404
    assert "There is no rollout 999." in answer.text
    assert 'href="/dashboard"' in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "families/No",
        f"families/{'x' * 65}",
        "events?family=..",
        "rollouts/x",
        "rollouts/-1",
        "rollouts/3?state=exploded",
        f"rollouts/3?after={'x' * 65}",
        f"rollouts/{2**63}",
    ],
)
def test_nonsense_is_refused_before_the_database_sees_it(client: httpx2.Client, path: str) -> None:
    answer = client.get(f"/dashboard/{path}")
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"


def test_an_unknown_family_says_so_and_leads_back(client: httpx2.Client) -> None:
    answer = client.get("/dashboard/families/never")
    assert answer.status_code == 404
    assert "There is no family never." in answer.text


def test_a_family_page_shows_ways_and_what_they_cost(client: httpx2.Client) -> None:
    page = client.get("/dashboard/families/signs").text
    assert "Cheapest ways to 1.2.0" in page
    assert "deltafleet" in page
    assert 'value="24117"' in page


def test_a_rollout_page_says_what_the_next_wave_waits_for(served: Served, client: httpx2.Client) -> None:
    with served.database.writing() as session:
        seed = Seeder(session)
        seed.family("held-up")
        version = seed.version("held-up", "1.0.0", 1)
        version.listing = Listing.UNLISTED
        where = f"/dashboard/rollouts/{seed.rollout(version, waves=((100, WaveState.SCHEDULED),)).id}"
    assert "The next wave waits until signed metadata names the version again" in client.get(where).text
    assert "The next wave waits" not in client.get(f"/dashboard/rollouts/{BUSY}").text


def test_a_family_page_shows_what_signed_metadata_names(client: httpx2.Client) -> None:
    page = client.get("/dashboard/families/signs").text
    assert "Signed metadata names these and 2\u00a0releases" in page
    assert page.count("state-unlisted") == 1
    assert "signed metadata names it again when a rollout brings it" in page
    assert "state-unlisted" not in client.get("/dashboard/families/lane-markings").text


def test_a_rollout_page_names_vehicles_reasons_and_remedies(client: httpx2.Client) -> None:
    page = client.get(f"/dashboard/rollouts/{BUSY}?state=failed").text
    assert "van-0115" in page
    assert "van-0101" not in page
    assert "golden vector 2: the largest output is 0.31 off" in page
    assert "Check the vehicle&#39;s engine" in page


def test_long_lists_lead_on_and_back(served: Served, client: httpx2.Client) -> None:
    with served.database.writing() as session:
        seed = Seeder(session)
        seed.family("many")
        rollout = seed.rollout(seed.version("many", "1.0.0", 1))
        for number in range(60):
            seed.vehicle(f"m{number:02d}", "many", None)
            seed.deployment(rollout, f"m{number:02d}", S.PENDING)
        rollout_id = rollout.id
    first = client.get(f"/dashboard/rollouts/{rollout_id}?state=pending").text
    assert f'href="/dashboard/rollouts/{rollout_id}?state=pending&amp;after=m49#vehicles"' in first
    second = client.get(f"/dashboard/rollouts/{rollout_id}?state=pending&after=m49").text
    assert "m49<" not in second
    assert "m59" in second
    assert f'href="/dashboard/rollouts/{rollout_id}?state=pending#vehicles"' in second


def test_events_bring_all_regions_first_and_then_only_changes(served: Served) -> None:
    with served.database.writing() as session:
        seed = Seeder(session)
        seed.family("live")
        rollout = seed.rollout(seed.version("live", "1.0.0", 1))
        seed.vehicle("live-1", "live", None)
        rollout_id, deployment_id = rollout.id, seed.deployment(rollout, "live-1", S.PENDING).id
    with stream(f"{served.url}/dashboard/events?rollout={rollout_id}") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = response.iter_lines()
        assert {"heading", "bandwidth", "waves", "vehicles"} <= set(next_event(lines))
        with served.database.writing() as session:
            session.get_one(Deployment, deployment_id).received_delta = 24_000
        changed = next_event(lines)
    assert "24,000" in changed["vehicles"]
    assert {"heading", "waves", "bandwidth"}.isdisjoint(changed)


def test_followers_are_bounded_and_seats_come_free(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        address = f"{served.url}/dashboard/events"
        with ExitStack() as stack:
            for _ in range(MOST_FOLLOWERS):
                assert stack.enter_context(stream(address)).status_code == 200
            with stream(address) as refused:
                assert refused.status_code == 503
                assert int(refused.headers["retry-after"]) > 0
            assert httpx2.get(f"{served.url}/dashboard", timeout=WAIT_S).status_code == 200
        ends = time.monotonic() + WAIT_S
        while status_of(address) != 200:
            assert time.monotonic() < ends, "seats are not given back"


def test_open_streams_do_not_keep_the_process_from_ending(tmp_path: Path) -> None:
    with serving(tmp_path) as served, ExitStack() as stack:
        for path in ("events", "events", f"events?rollout={BUSY}"):
            response = stack.enter_context(stream(f"{served.url}/dashboard/{path}"))
            assert response.status_code == 200
        served.stop()
        log = (tmp_path / "server.log").read_text()
    assert "Traceback" not in log
    assert "Cancel" not in log
