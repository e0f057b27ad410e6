"""The dashboard in a real browser: it renders, stays current, asks nobody else, and can be read by everybody."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

from server.database import Database
from server.tables import Deployment, Rollout, RolloutState, Vehicle
from tests.dashboard.browser import CHROMIUM, FLAGS
from tests.dashboard.host import Served, serving
from tests.dashboard.seed import S, Seeder, digest
from tests.services import require_programs
from tests.web import Answer, http_server
from tests.web import Request as WebRequest

pytestmark = pytest.mark.browser
KINDS = ("/dashboard", "/dashboard/rollouts/3", "/dashboard/families/signs")
PAGES = (*KINDS, "/dashboard/rollouts/1", "/dashboard/rollouts/999", "/dashboard/families/never-999")
WIDTHS = (360, 768, 1280, 1920)
HOSTILE = "\"'><img src=x onerror=alert(1)></title></script><script>alert(2)</script>{{ 7*7 }}"
WAIT_MS = 60_000


@dataclass
class Watched:
    """A page and everything that it complained about or asked for."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    def heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def asked(self, request: Request) -> None:
        self.hosts.add(urlsplit(request.url).netloc)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    require_programs(chromium=str(CHROMIUM) if CHROMIUM.exists() else None)
    expect.set_options(timeout=WAIT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def look(browser: Browser, url: str, *, width: int = 1280, **options: Any) -> Iterator[Watched]:
    """Open a page and watch it; the context is the test's own."""
    context = browser.new_context(viewport={"width": width, "height": 900}, **options)
    context.set_default_timeout(WAIT_MS)
    watched = Watched(context.new_page())
    watched.page.on("console", watched.heard)
    watched.page.on("pageerror", lambda error: watched.complaints.append(str(error)))
    watched.page.on("request", watched.asked)
    watched.page.goto(url)
    try:
        yield watched
    finally:
        context.close()


def is_live(page: Page) -> None:
    expect(page.locator("#live")).to_have_text("Live")


def own_rollout(database: Database, family: str) -> tuple[int, int]:
    """A rollout to one vehicle for a test that changes it; returns the rollout's and the deployment's ids."""
    with database.writing() as session:
        seed = Seeder(session)
        seed.family(family)
        rollout = seed.rollout(seed.version(family, "3.1.4", 1))
        seed.vehicle(f"{family}-1", family, None)
        return rollout.id, seed.deployment(rollout, f"{family}-1", S.PENDING).id


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pages_render_quietly_and_ask_no_other_host(chromium: Browser, served: Served, path: str, theme: Any) -> None:
    with look(chromium, served.url + path, color_scheme=theme) as watched:
        expect(watched.page.locator("h1")).to_have_count(1)
        if not path.endswith("999"):
            is_live(watched.page)
            # Chromium itself reports a 404 page as an error.
            assert watched.complaints == []
        assert watched.hosts == {urlsplit(served.url).netloc}


@pytest.mark.parametrize("path", KINDS)
def test_the_policy_stops_what_is_not_ours(chromium: Browser, served: Served, path: str) -> None:
    with look(chromium, served.url + path) as watched:
        watched.page.evaluate(
            """() => {
                window.stopped = [];
                addEventListener("securitypolicyviolation", (e) => window.stopped.push(e.effectiveDirective));
                const script = document.createElement("script");
                script.textContent = "window.ran = true";
                document.body.append(script);
                const styled = document.createElement("div");
                styled.setAttribute("style", "color: red");
                const image = new Image();
                image.src = "https://elsewhere.invalid/x.png";
                document.body.append(styled, image);
            }"""
        )
        for _ in range(50):
            stopped = set(watched.page.evaluate("window.stopped"))
            if len(stopped) == 3:
                break
            watched.page.wait_for_timeout(50)
        assert stopped == {"script-src-elem", "style-src-attr", "img-src"}
        assert watched.page.evaluate("window.ran") is None


@pytest.mark.parametrize("path", KINDS)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_page_scrolls_sideways_at_any_width(chromium: Browser, served: Served, path: str, theme: Any) -> None:
    with look(chromium, served.url + path, color_scheme=theme) as watched:
        for width in WIDTHS:
            watched.page.set_viewport_size({"width": width, "height": 900})
            wide = watched.page.evaluate(
                """() => [document.documentElement.scrollWidth > document.documentElement.clientWidth,
                    [...document.querySelectorAll("main *")]
                        .filter((e) => !e.closest(".hidden, thead, svg, .scroll, code"))
                        .filter((e) => e.getBoundingClientRect().right > innerWidth)
                        .map((e) => e.outerHTML.slice(0, 80))]"""
            )
            assert wide == [False, []], f"at {width} px"


def test_a_change_in_the_database_arrives_without_reload_and_without_disturbing_the_reader(
    chromium: Browser, served: Served
) -> None:
    rollout_id, deployment_id = own_rollout(served.database, "current")
    with look(chromium, f"{served.url}/dashboard/rollouts/{rollout_id}") as watched:
        page = watched.page
        is_live(page)
        row = page.locator('[data-key="vehicle-current-1"]')
        expect(row).to_contain_text("Pending")
        page.evaluate("""() => { document.querySelector('[data-key="vehicle-current-1"]').same = true }""")
        page.locator(".filters a").first.focus()
        with served.database.writing() as session:
            deployment = session.get_one(Deployment, deployment_id)
            deployment.state, deployment.received_delta, deployment.received_metadata = S.SUCCEEDED, 24_117, 9_000
            vehicle = session.get_one(Vehicle, "current-1")
            vehicle.installed_version, vehicle.installed_sha256 = "3.1.4", digest("current/3.1.4")
        expect(row).to_contain_text("Succeeded")
        expect(page.locator('[data-region="headline"]')).to_contain_text("33.1")
        assert page.evaluate("""() => document.querySelector('[data-key="vehicle-current-1"]').same""") is True
        assert page.evaluate("() => document.activeElement.closest('.filters') !== null") is True
        assert watched.complaints == []


def test_an_open_table_stays_open_and_grows(chromium: Browser, served: Served) -> None:
    rollout_id, _ = own_rollout(served.database, "table")
    now = datetime.now(UTC)
    with served.database.writing() as session:
        Seeder(session).minute(session.get_one(Rollout, rollout_id), now - timedelta(minutes=3), 1, 2, 3)
    with look(chromium, f"{served.url}/dashboard/rollouts/{rollout_id}") as watched:
        is_live(watched.page)
        watched.page.get_by_text("As a table").click()
        rows = watched.page.locator("details tbody tr")
        expect(rows).to_have_count(1)
        with served.database.writing() as session:
            Seeder(session).minute(session.get_one(Rollout, rollout_id), now, 10, 20, 30)
        expect(rows).to_have_count(2)
        expect(rows.last).to_be_visible()
        expect(watched.page.locator(".column rect.k-delta")).to_have_count(2)


def test_the_page_finds_back_after_the_registry_was_away(chromium: Browser, tmp_path: Path) -> None:
    with serving(tmp_path) as first, look(chromium, f"{first.url}/dashboard") as watched:
        page, port = watched.page, urlsplit(first.url).port or 0
        is_live(page)
        first.stop()
        expect(page.locator("#live")).to_have_text("Reconnecting")
        with serving(tmp_path, port=port) as again:
            with again.database.writing() as session:
                Seeder(session).family("came-back")
            is_live(page)
            expect(page.get_by_text("came-back").first).to_be_visible()


def test_everything_is_there_without_scripts(chromium: Browser, served: Served) -> None:
    with look(chromium, f"{served.url}/dashboard/rollouts/3", java_script_enabled=False) as watched:
        page = watched.page
        expect(page.get_by_text("Reload for new figures")).to_be_visible()
        assert page.locator(".column rect.k-delta").count() > 10
        expect(page.locator(".waves > li")).to_have_count(3)
        expect(page.locator(".comparison tbody tr")).to_have_count(4)
        page.get_by_text("As a table").click()
        expect(page.locator("details table")).to_be_visible()
        page.get_by_role("link", name="Failed 2").click()
        expect(page.locator(".vehicles tr.with-reason")).to_have_count(2)
        assert watched.complaints == []


def test_the_graph_shows_bytes_and_lost_on_each_edge_and_says_the_same_in_words(chromium: Browser, served: Served) -> None:
    with look(chromium, f"{served.url}/dashboard", java_script_enabled=False) as watched:
        page = watched.page
        page.get_by_role("link", name="signs", exact=True).click()
        expect(page).to_have_url(f"{served.url}/dashboard/families/signs")
        edge = page.locator('[data-key="1.1.0-1.2.0"]')
        expect(edge.locator("text")).to_have_text(re.compile("24.1.kB, 3.1.%.lost"))
        expect(page.locator(".spans text", has_text="lost")).to_have_count(2)
        expect(page.locator("#spans-d")).to_contain_text("1.1.0 to 1.2.0: 24.1")
        row = page.locator('[data-key="artifact-1.1.0-1.2.0"]')
        for word in ("1.2.0", "1.1.0", "3.1", "model", "Published"):
            expect(row).to_contain_text(word)
        expect(page.locator('[data-key="way-1.0.0"]')).to_contain_text("38.2")
        assert watched.complaints == []


def test_a_new_delta_appears_in_the_graph_without_reload(chromium: Browser, served: Served) -> None:
    with served.database.writing() as session:
        seed = Seeder(session)
        seed.family("growing")
        one, two = (seed.version("growing", f"{n}.0.0", n) for n in (1, 2))
    with look(chromium, f"{served.url}/dashboard/families/growing") as watched:
        is_live(watched.page)
        expect(watched.page.locator(".w-delta")).to_have_count(0)
        with served.database.writing() as session:
            Seeder(session).delta(one, two, 12_345)
        expect(watched.page.locator(".w-delta text")).to_have_text(re.compile("12.3.kB"))
        assert watched.complaints == []


def test_words_from_outside_stay_words(chromium: Browser, served: Served) -> None:
    with served.database.writing() as session:
        seed = Seeder(session)
        seed.family("hostile", HOSTILE[:64])
        version = seed.version("hostile", "1.0.0", 1)
        version.version = f"1.0.0-{HOSTILE[:50]}"
        rollout = seed.rollout(version, halted_because=HOSTILE)
        vehicle_id = HOSTILE[:40]
        seed.vehicle(vehicle_id, "hostile", None)
        deployment_id = seed.deployment(rollout, vehicle_id, S.FAILED, code=HOSTILE[:60], detail=HOSTILE).id
        rollout_id = rollout.id
    for path in (f"/dashboard/rollouts/{rollout_id}", "/dashboard", "/dashboard/families/hostile"):
        with look(chromium, served.url + path) as watched:
            page = watched.page
            page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
            is_live(page)
            expect(page.locator("main img, main script")).to_have_count(0)
            assert HOSTILE[:40] in page.locator("main").inner_text()
            if "rollouts" in path:
                with served.database.writing() as session:
                    session.get_one(Deployment, deployment_id).detail = "later " + HOSTILE
                expect(page.get_by_text("later " + HOSTILE)).to_be_visible(timeout=WAIT_MS)
                expect(page.locator("main img, main script")).to_have_count(0)
            assert watched.complaints == []


def test_an_empty_registry_teaches_the_next_command(chromium: Browser, tmp_path: Path) -> None:
    with serving(tmp_path) as empty, look(chromium, empty.url + "/dashboard") as watched:
        page = watched.page
        for command in ("deltafleet publish", "deltafleet vehicles token", "deltafleet rollout create"):
            expect(page.get_by_text(command).first).to_be_visible()
        with empty.database.writing() as session:
            seed = Seeder(session)
            seed.family("signs")
            rollout_id = seed.rollout(seed.version("signs", "1.0.0", 1), state=RolloutState.DRAFT).id
        page.goto(f"{empty.url}/dashboard/rollouts/{rollout_id}")
        expect(page.get_by_text(f"deltafleet rollout start {rollout_id}").first).to_be_visible()
        assert watched.complaints == []


@pytest.mark.parametrize("path", KINDS)
def test_drawings_and_tables_can_be_read_aloud(chromium: Browser, served: Served, path: str) -> None:
    with look(chromium, served.url + path) as watched:
        unread = watched.page.evaluate(
            """() => [
                ...[...document.querySelectorAll("svg[role=img]")].filter((svg) => svg.getAttribute("aria-labelledby")
                    .split(" ").some((id) => !document.getElementById(id)?.textContent.trim())),
                ...[...document.querySelectorAll("svg")].filter((svg) =>
                    !svg.closest("[role=img], [aria-hidden]")),
                ...[...document.querySelectorAll("table")].filter((table) => !table.caption?.textContent.trim()),
                ...[...document.querySelectorAll("[id]")].filter((e) => document.getElementById(e.id) !== e),
            ].map((e) => e.outerHTML.slice(0, 120))"""
        )
        assert unread == []
        assert watched.page.locator("svg[role=img]").count() >= (1 if "families" in path else 4)


CONTRAST = """() => {
    const channel = (c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
    const ratio = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
    const rgba = (text) => text.match(/[\\d.]+/g).map(Number);
    const ground = (e) => {
        for (; e; e = e.parentElement) {
            const colour = rgba(getComputedStyle(e).backgroundColor);
            if (colour.length < 4 || colour[3] === 1) return colour;
        }
    };
    const poor = [];
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const e = texts.currentNode.parentElement;
        if (!texts.currentNode.data.trim() || e.closest("title, desc, script, noscript, .hidden, .skip")) continue;
        const style = getComputedStyle(e);
        const colour = rgba(e.closest("svg") ? style.fill : style.color);
        if (ratio(colour, ground(e)) < 4.5) poor.push([texts.currentNode.data.trim(), ratio(colour, ground(e))]);
    }
    // Grey stands for what has not begun; its number is in words beside it.
    for (const e of document.querySelectorAll("svg rect:not(.touch):not(.s-pending):not(.v-none):not(.v-unpublished)")) {
        const value = ratio(rgba(getComputedStyle(e).fill), ground(e.closest("svg").parentElement));
        if (value < 3) poor.push([e.getAttribute("class"), value]);
    }
    return poor;
}"""


@pytest.mark.parametrize("path", KINDS)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_and_marks_stand_out_from_their_ground(chromium: Browser, served: Served, path: str, theme: Any) -> None:
    with look(chromium, served.url + path, color_scheme=theme) as watched:
        is_live(watched.page)
        assert watched.page.evaluate(CONTRAST) == []
        ground = watched.page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        brightness = sum(int(part) for part in re.findall(r"\d+", ground)) / 3
        assert (brightness < 60) == (theme == "dark")


def test_the_keyboard_reaches_everything_and_shows_where_it_is(chromium: Browser, served: Served) -> None:
    with look(chromium, f"{served.url}/dashboard/rollouts/3") as watched:
        page, reached = watched.page, set()
        page.keyboard.press("Tab")
        expect(page.locator(".skip")).to_be_focused()
        expect(page.locator(".skip")).to_be_in_viewport()
        for _ in range(40):
            found = page.evaluate(
                """() => [document.activeElement.textContent.trim().replace(/\\s+/g, " "),
                    getComputedStyle(document.activeElement).outlineStyle]"""
            )
            if found[0]:
                reached.add(found[0])
                assert found[1] != "none", found
            page.keyboard.press("Tab")
            if page.evaluate("() => document.activeElement === document.body"):
                break
        assert {"Skip to the content", "Deltafleet", "Fleet", "As a table", "All 32", "Failed 2"} <= reached


def arriving_slowly(url: str, rest: Event) -> Callable[[WebRequest], Answer]:
    """The registry through a line that stops in the middle of a page, in its last table, until ``rest`` is set."""

    def answer(request: WebRequest) -> Answer:
        if request.path.startswith("/dashboard/events"):
            return Answer(204)
        with urlopen(url + request.path, timeout=WAIT_MS / 1000) as found:
            body, headers = found.read(), {"Content-Type": found.headers["content-type"]}
        if b"</tr>" not in body:
            return Answer(body=body, headers=headers)
        return Answer(body=body, headers=headers, cut_after=body.rindex(b"</tr>"), rest=rest)

    return answer


PAINTS_AFTER_A_WHILE = """() => new Promise((done) =>
    setTimeout(() => done(performance.getEntriesByType("paint").length), 500))"""
FIRST_PAINT = """() => new Promise((done) =>
    new PerformanceObserver((list) => done(list.getEntries().length)).observe({ type: "paint", buffered: true }))"""


@pytest.mark.parametrize("path", KINDS)
def test_a_page_is_painted_when_all_of_it_has_arrived(chromium: Browser, served: Served, path: str) -> None:
    rest = Event()
    with http_server(arriving_slowly(served.url, rest)) as url, chromium.new_context() as context:
        context.set_default_timeout(WAIT_MS)
        page = context.new_page()
        page.goto(url + path, wait_until="commit")
        page.locator("tr").first.wait_for(state="attached")
        assert page.evaluate(PAINTS_AFTER_A_WHILE) == 0
        expect(page.locator("#end")).not_to_be_attached()
        rest.set()
        expect(page.locator("#end")).to_be_visible()
        assert page.evaluate(FIRST_PAINT) > 0


@pytest.mark.parametrize("path", KINDS)
def test_nothing_jumps_while_the_page_loads_and_goes_live(chromium: Browser, served: Served, path: str) -> None:
    with look(chromium, served.url + path) as watched:
        is_live(watched.page)
        moved = watched.page.evaluate(
            """() => new Promise((done) => {
                const moved = [];
                const told = ({ node, previousRect, currentRect }) =>
                    [(node?.outerHTML ?? node?.textContent ?? "gone").slice(0, 80), previousRect, currentRect];
                new PerformanceObserver((list) =>
                    list.getEntries().forEach((e) => moved.push({ by: e.value, at: e.startTime, what: e.sources.map(told) }))
                ).observe({ type: "layout-shift", buffered: true });
                setTimeout(() => done(moved), 300);
            })"""
        )
        assert sum(shift["by"] for shift in moved) < 0.01, moved
