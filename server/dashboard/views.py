"""The dashboard's addresses. Read only: it shows the fleet and changes nothing.

Every answer forbids the browser to load or run anything that is not one of our own files.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Path, Query, Request, Response
from fastapi.responses import HTMLResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from sqlalchemy.orm import Session

from model_registry.contract.fields import NAME
from model_registry.contract.messages import DeploymentState
from server.bootstrap import Registry
from server.dashboard import queries
from server.dashboard.assets import Assets
from server.dashboard.live import Live, Regions, told_at_once
from server.dashboard.pages import Pages
from server.database import Database
from server.services.graph import Graph
from server.services.planning import Bounds

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
RECONNECT_MS = 2000
RECENT_POLLS = 3
MAX_ID = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Look:
    """Which page somebody looks at: the overview, a family, or a rollout and a part of its vehicles."""

    rollout_id: int | None = None
    state: DeploymentState | None = None
    after: str | None = None
    family: str | None = None

    @property
    def events(self) -> str:
        """Where the page's changes come from."""
        wanted = {"rollout": self.rollout_id, "state": self.state, "after": self.after, "family": self.family}
        given = urlencode({name: value for name, value in wanted.items() if value is not None})
        return f"/dashboard/events?{given}" if given else "/dashboard/events"


class Dashboard:
    """What the views need: figures from the database, drawn."""

    def __init__(
        self, database: Database, *, recent_s: float, bounds: Bounds, delta_bases: int, clock: Callable[[], datetime]
    ) -> None:
        self.assets = Assets()
        self.live: Live[Look] = Live(self.regions)
        self._pages = Pages(self.assets)
        self._database, self._recent_s, self._clock = database, recent_s, clock
        self._bounds, self._delta_bases = bounds, delta_bases

    def page(self, look: Look) -> str | None:
        """A whole page; None when there is no such rollout or family."""
        with self._database.reading() as session:
            if look.family is not None:
                graph = self._graph(session, look.family)
                return self._pages.family(graph, look.events) if graph else None
            if look.rollout_id is None:
                return self._pages.overview(queries.overview(session, now=self._clock(), recent_s=self._recent_s), look.events)
            found = queries.rollout_page(session, look.rollout_id, state=look.state, after=look.after)
        return self._pages.rollout(found, look.events) if found else None

    def regions(self, look: Look) -> Regions:
        """The page's changeable parts; none when there is no such rollout or family."""
        with self._database.reading() as session:
            if look.family is not None:
                graph = self._graph(session, look.family)
                return self._pages.family_regions(graph) if graph else {}
            if look.rollout_id is None:
                return self._pages.overview_regions(queries.overview(session, now=self._clock(), recent_s=self._recent_s))
            found = queries.rollout_page(session, look.rollout_id, state=look.state, after=look.after)
        return self._pages.rollout_regions(found) if found else {}

    def _graph(self, session: Session, family: str) -> Graph | None:
        return queries.family_page(session, family, bounds=self._bounds, delta_bases=self._delta_bases)

    def missing(self, what: str, remedy: str) -> str:
        return self._pages.missing(what, remedy)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
    registry: Registry = app.state.registry
    recent_s = RECENT_POLLS * registry.settings.poll_interval_s
    dashboard = Dashboard(
        registry.database,
        recent_s=recent_s,
        bounds=registry.bounds,
        delta_bases=registry.settings.delta_bases,
        clock=registry.clock,
    )
    with told_at_once(dashboard.live.end):
        yield {"dashboard": dashboard}


def _dashboard(request: Request) -> Dashboard:
    dashboard: Dashboard = request.state.dashboard
    return dashboard


router = APIRouter(include_in_schema=False, lifespan=_lifespan)
TheDashboard = Annotated[Dashboard, Depends(_dashboard)]
StateFilter = Annotated[DeploymentState | None, Query()]
After = Annotated[str | None, Query(max_length=64)]
FAMILY_PATTERN = rf"^{NAME.pattern}$"
FamilyName = Annotated[str, Path(pattern=FAMILY_PATTERN)]


@router.get("/dashboard")
def overview(dashboard: TheDashboard) -> Response:
    """The fleet."""
    return _html(dashboard.page(Look()) or "")


@router.get("/dashboard/rollouts/{rollout_id}")
def rollout(
    dashboard: TheDashboard,
    rollout_id: Annotated[int, Path(ge=0, le=MAX_ID)],
    state: StateFilter = None,
    after: After = None,
) -> Response:
    """One rollout."""
    page = dashboard.page(Look(rollout_id, state, after))
    if page is None:
        text = dashboard.missing(f"There is no rollout {rollout_id}.", "It may belong to another registry.")
        return _html(text, status_code=404)
    return _html(page)


@router.get("/dashboard/families/{family}")
def family(dashboard: TheDashboard, family: FamilyName) -> Response:
    """One family's delta graph."""
    page = dashboard.page(Look(family=family))
    if page is None:
        text = dashboard.missing(f"There is no family {family}.", "It may belong to another registry.")
        return _html(text, status_code=404)
    return _html(page)


async def _seat(
    dashboard: TheDashboard,
    rollout: Annotated[int | None, Query(ge=0, le=MAX_ID)] = None,
    state: StateFilter = None,
    after: After = None,
    family: Annotated[str | None, Query(pattern=FAMILY_PATTERN)] = None,
) -> AsyncIterator[AsyncIterator[Regions]]:
    with dashboard.live.seat(Look(rollout, state, after, family)) as changes:
        if changes is None:
            raise HTTPException(503, "too many people follow the dashboard", headers={"Retry-After": "10"})
        yield changes


@router.get("/dashboard/events", response_class=EventSourceResponse)
async def events(changes: Annotated[AsyncIterator[Regions], Depends(_seat)]) -> AsyncIterator[ServerSentEvent]:
    """Regions of a page as they change, each event a JSON object of HTML by region."""
    async for changed in changes:
        yield ServerSentEvent(event="regions", data=changed, retry=RECONNECT_MS)


@router.get("/dashboard/static/{name}")
def static(
    dashboard: TheDashboard, name: str, v: str | None = None, if_none_match: Annotated[str | None, Header()] = None
) -> Response:
    """One of our own files."""
    asset = dashboard.assets.get(name)
    if asset is None:
        raise HTTPException(404, "no such file")
    headers = {**SECURITY_HEADERS, "Cache-Control": asset.cache_control(v), "ETag": asset.etag}
    if if_none_match == asset.etag:
        return Response(status_code=304, headers=headers)
    return Response(asset.data, media_type=asset.media_type, headers=headers)


@router.get("/favicon.ico")
def favicon(dashboard: TheDashboard) -> Response:
    """Browsers ask for it on every page of this host."""
    return static(dashboard, "favicon.svg")


def _html(text: str, *, status_code: int = 200) -> Response:
    return HTMLResponse(text, status_code=status_code, headers={**SECURITY_HEADERS, "Cache-Control": "no-store"})
