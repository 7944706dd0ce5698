"""The one table of what an error is in gRPC, read by the server from left to right and by the verifiers back.

A status alone is not an answer: proxies, broken connections and wrong addresses make them too, and a client library
turns any HTTP 401 that it meets into UNAUTHENTICATED. So every answer of ours names its reason in trailing metadata,
and only status and reason together mean anything: no outage looks like a token that is not valid (ADR 0045).
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
    """What the service itself decided, as ``ibex-reason`` says it."""

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
    """The caller did not present the service credential. No token was looked at."""


class TooManyCallsError(Exception):
    """A concurrency limit or the limit of failed tokens is reached. Nothing was looked up."""


class UnknownMethodError(Exception):
    """The server does not offer this method."""


class UnknownServiceError(Exception):
    """A health check names a service that the server does not have."""


class CallRefusal(NamedTuple):
    """An answer other than OK. The message holds nothing of the request."""

    status: StatusCode
    reason: Reason
    message: str


class CallFailedError(Exception):
    """A call that was not answered OK: its status, and the reason that came with it, None where none did."""

    def __init__(self, status: StatusCode, reason: str | None = None) -> None:
        super().__init__(f"auth did not answer: {status.name}" if reason is None else f"auth answered: {reason}")
        self.status = status
        self.reason = reason


_DOWN: Final = "Identity cannot be looked up or changed at the moment."
_INTERNAL: Final = CallRefusal(StatusCode.INTERNAL, Reason.INTERNAL, InternalError.default_message)
# The first that fits counts; without words of the table an error speaks for itself.
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
        "This call needs the service credential.",
    ),
    (TooManyCallsError, StatusCode.RESOURCE_EXHAUSTED, Reason.TOO_MANY_CALLS, "Too many calls. Retry later."),
    (UnknownMethodError, StatusCode.UNIMPLEMENTED, Reason.UNIMPLEMENTED, "There is no such method."),
    (UnknownServiceError, StatusCode.NOT_FOUND, Reason.NOT_FOUND, "There is no such service."),
    (ServiceDegradedError, StatusCode.UNAVAILABLE, Reason.SOURCE_UNAVAILABLE, _DOWN),
    (AuthUnavailableError, StatusCode.UNAVAILABLE, Reason.SOURCE_UNAVAILABLE, _DOWN),
    (TimeoutError, StatusCode.DEADLINE_EXCEEDED, Reason.DEADLINE, "The call took too long."),
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
    """Return how the server answers an error; what is not in the table is internal, and nothing of it is said."""
    for kind, status, reason, words in _REFUSALS:
        if isinstance(error, kind):
            return CallRefusal(status, reason, words or (error.message if isinstance(error, IbexError) else ""))
    return _INTERNAL


def token_error(failed: CallFailedError) -> IbexError:
    """Return what a failed ValidateToken means: ``ServiceDegradedError`` unless the service has said otherwise."""
    return _TOKEN_ERRORS.get((failed.status, failed.reason), ServiceDegradedError)()


def agent_error(failed: CallFailedError) -> IbexError:
    """Return what a failed ValidateAgent means: ``AuthUnavailableError`` unless the service has said otherwise."""
    return _AGENT_ERRORS.get((failed.status, failed.reason), AuthUnavailableError)()
