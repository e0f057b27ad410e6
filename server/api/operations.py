"""For whoever runs the registry: is it alive, is it ready, how much is it doing."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from model_registry.contract.errors import Refusal
from server.api.parts import TheRegistry
from server.api.problems import problem
from server.bootstrap import IMAGE_METADATA, Registry
from server.database import Database
from server.repositories import figures

router = APIRouter(include_in_schema=False)


@router.get("/healthz")
def healthz() -> Response:
    """This process answers."""
    return PlainTextResponse("ok\n")


@router.get("/readyz")
def readyz(registry: TheRegistry) -> Response:
    """The database and the store answer, and there is signed metadata to serve."""
    missing = _what_is_missing(registry)
    if missing:
        return problem(503, "not_ready", missing, "look at the database, the store and the worker")
    return PlainTextResponse("ready\n")


def _what_is_missing(registry: Registry) -> str | None:
    try:
        registry.database.ping()
    except SQLAlchemyError:
        return "the database does not answer"
    try:
        size = registry.store.size(IMAGE_METADATA + "timestamp.json")
    except Refusal as exc:
        return f"the store does not answer: {exc.message}"
    return None if size else "no signed metadata yet: a worker publishes it when it starts"


@router.get("/metrics")
def metrics(request: Request) -> Response:
    """Prometheus metrics. Those of the fleet come from the database, the same from every API process."""
    collectors: CollectorRegistry = request.app.state.collectors
    return Response(generate_latest(collectors), media_type=CONTENT_TYPE_LATEST)


class FleetFigures(Collector):
    """Counts of the whole installation, read when somebody scrapes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        with self._database.reading() as session:
            found = figures.of_installation(session)
        for name, help_text, labels, values in (
            ("deltafleet_jobs", "Jobs by kind and state", ["kind", "state"], found.jobs),
            ("deltafleet_vehicles", "Vehicles by state", ["state"], found.vehicles),
            ("deltafleet_rollouts", "Rollouts by state", ["state"], found.rollouts),
        ):
            gauge = GaugeMetricFamily(name, help_text, labels=labels)
            for key, count in values.items():
                gauge.add_metric(list(key), count)
            yield gauge
        received = CounterMetricFamily("deltafleet_received_bytes", "Bytes that vehicles received", labels=["kind"])
        for kind, size in found.received_bytes.items():
            received.add_metric([kind], size)
        yield received
