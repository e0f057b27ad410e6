"""How endpoints get at the registry's parts."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from server.bootstrap import Registry


def _registry(request: Request) -> Registry:
    registry: Registry = request.app.state.registry
    return registry


TheRegistry = Annotated[Registry, Depends(_registry)]
