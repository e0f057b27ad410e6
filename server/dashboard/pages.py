"""Figures to HTML. A page is a shell and named regions; the same regions travel alone when they change while somebody looks.

Templates escape everything: vehicle ids, failure details and versions come from outside.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from model_registry.contract.messages import DeploymentState
from server.dashboard import charts, formatting, spans
from server.dashboard.assets import Assets
from server.dashboard.figures import FamilyLine, Overview, Progress, RolloutPage
from server.dashboard.remedies import remedy
from server.services.graph import Graph
from server.tables import RetiredBecause, VersionState

TEMPLATES = Path(__file__).parent / "templates"
OVERVIEW_REGIONS = ("headline", "rollouts", "versions", "cost", "failures")
ROLLOUT_REGIONS = ("heading", "headline", "bandwidth", "cost", "waves", "failures", "vehicles")
FAMILY_REGIONS = ("heading", "graph", "artifacts", "ways")
RETIRED_WORDS = {
    RetiredBecause.UNUSED: "nobody runs its base",
    RetiredBecause.DEARER: "a cheaper way exists",
    RetiredBecause.OPERATOR: "an operator said so",
}


AnyPage = Overview | RolloutPage | Graph


class Pages:
    """Draws pages and their regions."""

    def __init__(self, assets: Assets) -> None:
        self._environment = _environment(assets)

    def overview_regions(self, page: Overview) -> Mapping[str, str]:
        return self._regions("overview", OVERVIEW_REGIONS, page)

    def rollout_regions(self, page: RolloutPage) -> Mapping[str, str]:
        return self._regions("rollout", ROLLOUT_REGIONS, page)

    def family_regions(self, page: Graph) -> Mapping[str, str]:
        return self._regions("family", FAMILY_REGIONS, page)

    def overview(self, page: Overview, events: str) -> str:
        return self._shell("overview.html", page, self.overview_regions(page), events)

    def rollout(self, page: RolloutPage, events: str) -> str:
        return self._shell("rollout.html", page, self.rollout_regions(page), events)

    def family(self, page: Graph, events: str) -> str:
        return self._shell("family.html", page, self.family_regions(page), events)

    def missing(self, what: str, remedy: str) -> str:
        return self._environment.get_template("missing.html").render(what=what, remedy=remedy, events=None)

    def _regions(self, kind: str, names: tuple[str, ...], page: AnyPage) -> Mapping[str, str]:
        return {name: self._environment.get_template(f"regions/{kind}_{name}.html").render(page=page) for name in names}

    def _shell(self, template: str, page: AnyPage, regions: Mapping[str, str], events: str) -> str:
        # Regions are our own templates' output, escaped when they were drawn.
        drawn = {name: Markup(html) for name, html in regions.items()}  # noqa: S704
        return self._environment.get_template(template).render(page=page, regions=drawn, events=events)


def _environment(assets: Assets) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    filters = ("size", "exact_size", "count", "plural", "number", "share", "span", "moment", "short_moment", "machine_time")
    environment.filters |= {name: getattr(formatting, name) for name in filters} | {"remedy": remedy}
    environment.globals.update(_globals(assets))
    return environment


def _globals(assets: Assets) -> dict[str, Any]:
    drawing = ("bandwidth", "by_kind", "comparisons", "progress_bar", "versions_bar", "version_shades")
    constants = ("PLOT_TOP_PX", "PLOT_HEIGHT_PX", "STATES", "STATE_NAMES")
    return {name: getattr(charts, name) for name in (*drawing, *constants)} | {
        "DeploymentState": DeploymentState,
        "RETIRED_WORDS": RETIRED_WORDS,
        "asset": assets.url,
        "duration": formatting.duration,
        "percent": formatting.percent,
        "times": formatting.times,
        "progress_text": progress_text,
        "span_chart": spans.span_chart,
        "versions_text": versions_text,
        "has_version": has_version,
    }


def progress_text(progress: Progress) -> str:
    """A progress bar in words."""
    words = [f"{formatting.count(progress[state])} {name.lower()}" for state, name in charts.STATES if progress.get(state)]
    return ", ".join(words) or "no vehicle yet"


def versions_text(family: FamilyLine) -> str:
    """A bar of versions in words."""
    return ", ".join(segment.text for segment in charts.versions_bar(family)) or "no vehicle yet"


def has_version(page: Overview) -> bool:
    """Whether anything was published."""
    return any(line.state == VersionState.PUBLISHED for family in page.families for line in family.versions)
