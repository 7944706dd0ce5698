"""The errors of IBEX, by meaning, without HTTP: ``adapters.http_server`` has the table of statuses and envelopes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Final

MAX_FIELD_ERRORS: Final = 32
"""The maximum of field errors in one response, which bounds the size of the response."""


class ErrorCode(StrEnum):
    """The stable, public name of each error."""

    INVALID_JSON = "INVALID_JSON"
    VALIDATION_ERROR = "VALIDATION_ERROR"
    INVALID_REQUEST = "INVALID_REQUEST"
    MISSING_AGENT_ID = "MISSING_AGENT_ID"
    MISSING_TOKEN = "MISSING_TOKEN"  # noqa: S105 - an error's name
    INVALID_TOKEN = "INVALID_TOKEN"  # noqa: S105 - an error's name
    INSUFFICIENT_PERMISSIONS = "INSUFFICIENT_PERMISSIONS"
    AGENT_NOT_AUTHORIZED = "AGENT_NOT_AUTHORIZED"
    AGENT_SUSPENDED = "AGENT_SUSPENDED"
    NOT_FOUND = "NOT_FOUND"
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    REQUEST_TIMEOUT = "REQUEST_TIMEOUT"
    PAYLOAD_TOO_LARGE = "PAYLOAD_TOO_LARGE"
    UNSUPPORTED_MEDIA_TYPE = "UNSUPPORTED_MEDIA_TYPE"
    UPGRADE_REFUSED = "UPGRADE_REFUSED"
    HEADERS_TOO_LARGE = "HEADERS_TOO_LARGE"
    RATE_LIMITED = "RATE_LIMITED"
    CLIENT_CLOSED_REQUEST = "CLIENT_CLOSED_REQUEST"
    INTERNAL_ERROR = "INTERNAL_ERROR"
    PROVIDER_NOT_CONFIGURED = "PROVIDER_NOT_CONFIGURED"
    RESPONSE_NOT_FOUND = "RESPONSE_NOT_FOUND"
    SERVICE_DEGRADED = "SERVICE_DEGRADED"
    AUTH_UNAVAILABLE = "AUTH_UNAVAILABLE"
    PROVIDER_UNAVAILABLE = "PROVIDER_UNAVAILABLE"
    OVERLOADED = "OVERLOADED"
    PROVIDER_TIMEOUT = "PROVIDER_TIMEOUT"


class FieldCode(StrEnum):
    """The reason why a field is invalid."""

    REQUIRED = "REQUIRED"
    TOO_LONG = "TOO_LONG"
    TOO_MANY = "TOO_MANY"
    INVALID_ENUM = "INVALID_ENUM"
    INVALID_FORMAT = "INVALID_FORMAT"


@dataclass(frozen=True, slots=True)
class FieldError:
    """An invalid field or header: its name, the reason, and what is allowed. Never contains the value."""

    field: str
    code: FieldCode
    message: str


class IbexError(Exception):
    """The base class of all errors of IBEX.

    ``message`` is safe to show to a client and to log: no subclass puts a secret or the text of a conversation into it.
    """

    code: ClassVar[ErrorCode] = ErrorCode.INTERNAL_ERROR
    default_message: ClassVar[str] = "An internal error occurred."

    def __init__(self, message: str | None = None, *, detail: str | None = None) -> None:
        self.message = message or self.default_message
        self.detail = detail
        super().__init__(self.message)


class InternalError(IbexError):
    """A bug in IBEX. The client receives no details."""


class InvalidJsonError(IbexError):
    """The body is not one JSON object."""

    code = ErrorCode.INVALID_JSON
    default_message = "The request body must be one JSON object."


class ValidationError(IbexError):
    """Fields or headers are invalid. ``field_errors`` contains the first ``MAX_FIELD_ERRORS`` of them."""

    code = ErrorCode.VALIDATION_ERROR
    default_message = "The request is not valid."

    def __init__(self, field_errors: tuple[FieldError, ...]) -> None:
        super().__init__("; ".join(f"{e.field}: {e.message}" for e in field_errors[:3]) or None)
        self.field_errors = field_errors[:MAX_FIELD_ERRORS]


class MissingAgentIdError(IbexError):
    """The request names no agent, and the token is bound to none."""

    code = ErrorCode.MISSING_AGENT_ID
    default_message = "Name an agent in X-IBEX-Agent-ID, or use a token that is bound to one."


class MissingTokenError(IbexError):
    """The request has no bearer token."""

    code = ErrorCode.MISSING_TOKEN
    default_message = "A personal access token is required. Send the header Authorization: Bearer <token>."


class InvalidTokenError(IbexError):
    """The token is malformed, unknown, expired or revoked. The response does not reveal which."""

    code = ErrorCode.INVALID_TOKEN
    default_message = "The personal access token is not valid."


class InsufficientPermissionsError(IbexError):
    """The token lacks a permission that the request needs, or belongs to another organization."""

    code = ErrorCode.INSUFFICIENT_PERMISSIONS
    default_message = "The token's permissions do not allow this request."


class AgentNotAuthorizedError(IbexError):
    """The agent is unknown or of another organization, or the token is bound to another agent.

    The response does not reveal which.
    """

    code = ErrorCode.AGENT_NOT_AUTHORIZED
    default_message = "The token is not authorized to act as this agent."


class AgentSuspendedError(IbexError):
    """The agent is paused, suspended or archived."""

    code = ErrorCode.AGENT_SUSPENDED
    default_message = "The agent is not active. Activate it, or use another agent."


class NotFoundError(IbexError):
    """The route or the resource does not exist."""

    code = ErrorCode.NOT_FOUND
    default_message = "Not found."


class MethodNotAllowedError(IbexError):
    """The route exists, but not for this method."""

    code = ErrorCode.METHOD_NOT_ALLOWED
    default_message = "The route does not allow this method."


class RequestTimeoutError(IbexError):
    """The request body did not arrive in time."""

    code = ErrorCode.REQUEST_TIMEOUT
    default_message = "The request body did not arrive in time."


class PayloadTooLargeError(IbexError):
    """The request body is over the limit."""

    code = ErrorCode.PAYLOAD_TOO_LARGE
    default_message = "The request body is too large."


class HeadersTooLargeError(IbexError):
    """The headers, the trailers or the chunk framing of a request are too large or too many."""

    code = ErrorCode.HEADERS_TOO_LARGE
    default_message = "The request's headers or trailers are too large or too many."


class UnsupportedMediaTypeError(IbexError):
    """The request body is not declared as JSON."""

    code = ErrorCode.UNSUPPORTED_MEDIA_TYPE
    default_message = "The request body must be application/json."


class UpgradeRefusedError(IbexError):
    """The request asks for WebSocket, which IBEX does not support."""

    code = ErrorCode.UPGRADE_REFUSED
    default_message = "IBEX does not support WebSocket. Send the request over HTTP."


class ClientClosedRequestError(IbexError):
    """The client closed its request before the end of the response. This error is recorded, but never sent."""

    code = ErrorCode.CLIENT_CLOSED_REQUEST
    default_message = "The client closed the request."


class RetryableError(IbexError):
    """An error after which a retry may succeed. ``retry_after_s`` is in seconds, None if unknown."""

    def __init__(
        self, message: str | None = None, *, detail: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, detail=detail)
        self.retry_after_s = retry_after_s


class RateLimitedError(RetryableError):
    """The rate limit of the organization or of the provider was reached."""

    code = ErrorCode.RATE_LIMITED
    default_message = "Too many requests."


class ServiceDegradedError(RetryableError):
    """A service that IBEX needs to serve the request safely is unavailable."""

    code = ErrorCode.SERVICE_DEGRADED
    default_message = "Authentication is temporarily unavailable. Retry later."


class TooManyGuessesError(ServiceDegradedError):
    """One token id had too many wrong secrets, so the token was not verified (ADR 0040)."""


class OutcomeUnknownError(ServiceDegradedError):
    """No answer came to the commit of a change. The change may have been made, or may still be made."""


class AuthUnavailableError(RetryableError):
    """The agent cannot be verified now."""

    code = ErrorCode.AUTH_UNAVAILABLE
    default_message = "The agent cannot be verified right now. Retry later."


class TooManyLookupsError(AuthUnavailableError):
    """Too many lookups of unverified agents are in progress, so this agent was not looked up (ADR 0040)."""


class SourceUnavailableError(RetryableError):
    """Auth reports that it cannot look up tokens or agents now.

    Unlike a call without an answer, this allows stale-if-error: while the epoch is unchanged, cached entries still hold
    (ADR 0045).
    """


class TokenSourceUnavailableError(ServiceDegradedError, SourceUnavailableError):
    """Auth reports that it cannot look up the token now."""


class AgentSourceUnavailableError(AuthUnavailableError, SourceUnavailableError):
    """Auth reports that it cannot look up the agent now."""


class OverloadedError(RetryableError):
    """A bounded resource of the proxy is exhausted. ``attempts`` counts the attempts that had reached the provider."""

    code = ErrorCode.OVERLOADED
    default_message = "The proxy is at capacity. Retry later."

    def __init__(
        self,
        message: str | None = None,
        *,
        detail: str | None = None,
        retry_after_s: float | None = None,
        attempts: int = 0,
    ) -> None:
        super().__init__(message, detail=detail, retry_after_s=retry_after_s)
        self.attempts = attempts


class ProviderNotConfiguredError(IbexError):
    """No provider serves this model."""

    code = ErrorCode.PROVIDER_NOT_CONFIGURED
    default_message = "No provider is configured for this model. GET /v1/models lists the available models."


class ResponseNotFoundError(IbexError):
    """The organization has not received the response, or the agent cannot continue it (ADR 0050)."""

    code = ErrorCode.RESPONSE_NOT_FOUND
    default_message = "The response was not found."

    def __init__(self, response_id: str | None = None, *, continues: bool = False) -> None:
        name = "Previous response" if continues else "Response"
        super().__init__(None if response_id is None else f"{name} with id '{response_id}' not found.")
        self.continues = continues
