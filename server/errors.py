"""Refusals that only the registry gives. The tree's root is in the contract; ``api.problems`` turns each into a status."""

from __future__ import annotations

from model_registry.contract.errors import Refusal


class NotFound(Refusal):
    """No such thing, or none that the caller may see."""

    code = "not_found"


class Conflict(Refusal):
    """The request is well formed and contradicts what is already there."""

    code = "conflict"


class InvalidRequest(Refusal):
    """A value that the schema admits and the registry does not."""

    code = "request_invalid"


class WrongState(Conflict):
    """The step is not one that this state allows."""

    code = "wrong_state"


class Unauthorized(Refusal):
    """No operator token, or a wrong one."""

    code = "unauthorized"


class Forbidden(Refusal):
    """Known, and not allowed to do this."""

    code = "forbidden"


class NotAccepted(Refusal):
    """The vehicle is enrolled and waits for an operator, or was turned away."""

    code = "not_accepted"


class BodyTooLarge(Refusal):
    """More bytes than this door takes."""

    code = "body_too_large"


class LengthRequired(Refusal):
    """The request does not say how long its body is."""

    code = "length_required"


class BodyIncomplete(Refusal):
    """The body ended before its announced length, or came too slowly."""

    code = "body_incomplete"


class JobFailed(Refusal):
    """A job's child process ended without a result: killed, out of memory, past its deadline."""

    code = "job_failed"


class DatabaseOutdated(Refusal):
    """The database's schema is not the one that this program works with."""

    code = "database_outdated"
