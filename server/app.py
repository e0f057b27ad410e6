"""The web application: every door of the registry, the bounds in front of them, and what runs beside them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter
from starlette.concurrency import run_in_threadpool

from model_registry.contract.errors import Refusal
from server.api import artifacts, device, fleet, graph, operations, problems, repository
from server.api.bodies import BodyBounds
from server.api.checkins import CheckIns, PresenceBuffer, save_presences
from server.bootstrap import Registry, build, operator_token
from server.dashboard import views
from server.settings import Settings
from server.worker import Worker

log = logging.getLogger(__name__)
DESCRIPTION = "Over-the-air model updates for vehicle fleets."


def create_app(settings: Settings, registry: Registry | None = None) -> FastAPI:
    """The application on its settings. Raises Refusal when a part cannot be had."""
    registry = registry or build(settings)
    settings.scratch_directory.mkdir(parents=True, exist_ok=True)
    app = FastAPI(title="Deltafleet", description=DESCRIPTION, version="1", lifespan=_lifespan)
    app.state.registry = registry
    app.state.operator_token = operator_token(settings)
    app.state.metadata = repository.MetadataCache(registry.metadata)
    app.state.collectors = CollectorRegistry()
    app.state.device = _device_door(registry, app.state.collectors)
    app.state.collectors.register(operations.FleetFigures(registry.database))
    problems.install(app)
    app.add_middleware(BodyBounds, settings=settings)
    app.router.routes.extend(device.routes)
    for part in (artifacts.router, graph.router, fleet.router, repository.router, operations.router, views.router):
        app.include_router(part)
    _describe_device_door(app)
    return app


def _device_door(registry: Registry, collectors: CollectorRegistry) -> device.DeviceDoor:
    settings = registry.settings
    return device.DeviceDoor(
        registry=registry,
        checkins=CheckIns(registry.database, poll_interval_s=settings.poll_interval_s, bounds=registry.bounds),
        presences=PresenceBuffer(save_presences(registry.database), capacity=settings.presence_buffer),
        answered=Counter("deltafleet_check_ins", "Check-ins answered", ["answer"], registry=collectors),
    )


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep the memory of vehicles fresh and written, and run the worker if it is embedded."""
    registry: Registry = app.state.registry
    door: device.DeviceDoor = app.state.device
    settings = registry.settings
    worker = Worker(registry) if settings.embedded_worker else None
    if worker:
        await run_in_threadpool(worker.start)
    tasks = [
        asyncio.create_task(_every(settings.cache_poll_s, door.checkins.poll)),
        asyncio.create_task(_every(settings.presence_flush_s, door.presences.flush)),
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        if worker:
            await run_in_threadpool(worker.stop)
        await run_in_threadpool(_last_flush, door)
        await run_in_threadpool(registry.close)


def _last_flush(door: device.DeviceDoor) -> None:
    try:
        door.presences.flush()
    except Exception as exc:
        log.warning("the last check-ins were not written: %s", exc)


async def _every(interval_s: float, step: Callable[[], None]) -> None:
    """Take a step again and again; a failure is logged and the next one tried."""
    while True:
        try:
            await run_in_threadpool(step)
        except Refusal as exc:
            log.warning("%s", exc)
        except Exception as exc:
            log.warning("%s: %s", type(exc).__name__, exc)
        await asyncio.sleep(interval_s)


def _describe_device_door(app: FastAPI) -> None:
    made = app.openapi

    def described() -> dict[str, Any]:
        schema = made()
        schema["paths"].update(device.openapi_paths())
        schema.setdefault("components", {}).setdefault("schemas", {})["Envelope"] = device.ENVELOPE_SCHEMA
        return schema

    app.openapi = described  # type: ignore[method-assign]
