"""The tables that translate errors to gRPC statuses (in the server) and back (in the verifiers).

A status alone proves nothing. HTTP proxies, broken connections and wrong addresses produce statuses too, and a client
library turns any HTTP 401 into UNAUTHENTICATED. Therefore auth adds a reason to every status, in trailing metadata, and
the verifiers require both. An outage can never look like an invalid token (ADR 0045).
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from grpc import StatusCode

from ibex.domain.errors import (
    AgentNotAuthorizedError,
    AgentSourceUnavailableError,
    AuthUnavailableError,
    IbexError,
    InsufficientPermissionsError,
    InternalError,
    InvalidTokenError,
    MissingTokenError,
    NotFoundError,
    ServiceDegradedError,
    TokenSourceUnavailableError,
    ValidationError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

REASON_KEY: Final = "ibex-reason"


class Reason(StrEnum):
    """The values of the trailing metadata ``ibex-reason``."""

    INVALID_TOKEN = "invalid-token"  # noqa: S105 - a reason's name
    MISSING_TOKEN = "missing-token"  # noqa: S105 - a reason's name
    AGENT_NOT_AUTHORIZED = "agent-not-authorized"
    INSUFFICIENT_PERMISSIONS = "insufficient-permissions"
    NOT_FOUND = "not-found"
    INVALID_ARGUMENT = "invalid-argument"
    SERVICE_CREDENTIAL = "service-credential"
    SOURCE_UNAVAILABLE = "source-unavailable"
    DEADLINE = "deadline"
    TOO_MANY_CALLS = "too-many-calls"
    UNIMPLEMENTED = "unimplemented"
    INTERNAL = "internal"


class ServiceCredentialError(Exception):
    """The caller did not present the service credential. Auth has verified no token."""


class TooManyCallsError(Exception):
    """A concurrency limit or the limit of failed tokens is reached. Auth has looked up nothing."""


class UnknownMethodError(Exception):
    """The server does not offer this method."""


class UnknownServiceError(Exception):
    """A health check names a service that the server does not have."""


class CallRefusal(NamedTuple):
    """A response other than OK. The message contains no value of the request."""

    status: StatusCode
    reason: Reason
    message: str


class CallFailedError(Exception):
    """A call failed. ``status`` is its status; ``reason`` is auth's reason, None if the response has none."""

    def __init__(self, status: StatusCode, reason: str | None = None) -> None:
        super().__init__(f"auth did not answer: {status.name}" if reason is None else f"auth answered: {reason}")
        self.status = status
        self.reason = reason


_DOWN: Final = "The identity database is temporarily unavailable. Retry later."
_INTERNAL: Final = CallRefusal(StatusCode.INTERNAL, Reason.INTERNAL, InternalError.default_message)
# The first matching entry applies. None means that the error's own message is sent.
_REFUSALS: Final[tuple[tuple[type[Exception], StatusCode, Reason, str | None], ...]] = (
    (InvalidTokenError, StatusCode.UNAUTHENTICATED, Reason.INVALID_TOKEN, InvalidTokenError.default_message),
    (MissingTokenError, StatusCode.UNAUTHENTICATED, Reason.MISSING_TOKEN, None),
    (AgentNotAuthorizedError, StatusCode.PERMISSION_DENIED, Reason.AGENT_NOT_AUTHORIZED, None),
    (InsufficientPermissionsError, StatusCode.PERMISSION_DENIED, Reason.INSUFFICIENT_PERMISSIONS, None),
    (NotFoundError, StatusCode.PERMISSION_DENIED, Reason.NOT_FOUND, None),
    (ValidationError, StatusCode.INVALID_ARGUMENT, Reason.INVALID_ARGUMENT, None),
    (
        ServiceCredentialError,
        StatusCode.FAILED_PRECONDITION,
        Reason.SERVICE_CREDENTIAL,
        "This call requires the service credential.",
    ),
    (TooManyCallsError, StatusCode.RESOURCE_EXHAUSTED, Reason.TOO_MANY_CALLS, "Too many calls. Retry later."),
    (UnknownMethodError, StatusCode.UNIMPLEMENTED, Reason.UNIMPLEMENTED, "Unknown method."),
    (UnknownServiceError, StatusCode.NOT_FOUND, Reason.NOT_FOUND, "Unknown service."),
    (ServiceDegradedError, StatusCode.UNAVAILABLE, Reason.SOURCE_UNAVAILABLE, _DOWN),
    (AuthUnavailableError, StatusCode.UNAVAILABLE, Reason.SOURCE_UNAVAILABLE, _DOWN),
    (TimeoutError, StatusCode.DEADLINE_EXCEEDED, Reason.DEADLINE, "The call took too long. Retry later."),
)
_TOKEN_ERRORS: Final[Mapping[tuple[StatusCode, str | None], type[IbexError]]] = {
    (StatusCode.UNAUTHENTICATED, Reason.INVALID_TOKEN): InvalidTokenError,
    (StatusCode.UNAVAILABLE, Reason.SOURCE_UNAVAILABLE): TokenSourceUnavailableError,
}
_AGENT_ERRORS: Final[Mapping[tuple[StatusCode, str | None], type[IbexError]]] = {
    (StatusCode.PERMISSION_DENIED, Reason.AGENT_NOT_AUTHORIZED): AgentNotAuthorizedError,
    (StatusCode.UNAVAILABLE, Reason.SOURCE_UNAVAILABLE): AgentSourceUnavailableError,
}


def refusal_of(error: Exception) -> CallRefusal:
    """Return the response to an error. An error outside the table is INTERNAL, with a message that reveals nothing."""
    for kind, status, reason, message in _REFUSALS:
        if isinstance(error, kind):
            return CallRefusal(status, reason, message or (error.message if isinstance(error, IbexError) else ""))
    return _INTERNAL


def token_error(failed: CallFailedError) -> IbexError:
    """Return the domain's error for a failed ValidateToken; ``ServiceDegradedError`` if auth gave no known reason."""
    return _TOKEN_ERRORS.get((failed.status, failed.reason), ServiceDegradedError)()


def agent_error(failed: CallFailedError) -> IbexError:
    """Return the domain's error for a failed ValidateAgent; ``AuthUnavailableError`` if auth gave no known reason."""
    return _AGENT_ERRORS.get((failed.status, failed.reason), AuthUnavailableError)()
