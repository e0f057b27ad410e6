"""Who operates the registry.

Today one operator token holds every role. Endpoints name the role they need already, so that API keys with fewer roles and
identity providers can come without touching them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from server.bootstrap import same_token
from server.errors import Forbidden, Unauthorized

_bearer = HTTPBearer(auto_error=False, description="The operator token; `deltafleet serve` prints where it is.")


class Role(StrEnum):
    """What an operator may do."""

    VIEWER = "viewer"
    PUBLISHER = "publisher"
    FLEET_OPERATOR = "fleet_operator"


@dataclass(frozen=True, slots=True)
class Operator:
    """Who asks, and what they may do."""

    name: str
    roles: frozenset[Role]


def authenticate(request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> Operator:
    """The operator behind the request's token. Raises Unauthorized."""
    remedy = "send Authorization: Bearer TOKEN, with the token that the registry was started with"
    if credentials is None:
        raise Unauthorized("an operator token is needed", remedy=remedy)
    if not same_token(credentials.credentials, request.app.state.operator_token):
        raise Unauthorized("the operator token is wrong", remedy=remedy)
    return Operator("operator", frozenset(Role))


def needs(role: Role) -> Any:
    """A dependency that lets only operators of this role through."""

    def check(operator: Annotated[Operator, Depends(authenticate)]) -> Operator:
        if role not in operator.roles:
            raise Forbidden(f"this needs the role {role.value}", remedy="ask an administrator for it")
        return operator

    return Depends(check)
