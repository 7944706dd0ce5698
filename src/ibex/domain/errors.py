"""What can go wrong, by meaning. No HTTP here: ``adapters.http_server`` has the one table of statuses and envelopes."""

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
    HEADERS_TOO_LARGE = "HEADERS_TOO_LARGE"
    RATE_LIMITED = "RATE_LIMITED"
    CLIENT_CLOSED_REQUEST = "CLIENT_CLOSED_REQUEST"
    INTERNAL_ERROR = "INTERNAL_ERROR"
    PROVIDER_NOT_CONFIGURED = "PROVIDER_NOT_CONFIGURED"
    SERVICE_DEGRADED = "SERVICE_DEGRADED"
    AUTH_UNAVAILABLE = "AUTH_UNAVAILABLE"
    PROVIDER_UNAVAILABLE = "PROVIDER_UNAVAILABLE"
    OVERLOADED = "OVERLOADED"
    PROVIDER_TIMEOUT = "PROVIDER_TIMEOUT"


class FieldCode(StrEnum):
    """Why one field was refused."""

    REQUIRED = "REQUIRED"
    TOO_LONG = "TOO_LONG"
    TOO_MANY = "TOO_MANY"
    INVALID_ENUM = "INVALID_ENUM"
    INVALID_FORMAT = "INVALID_FORMAT"


@dataclass(frozen=True, slots=True)
class FieldError:
    """One field or header that is wrong: where, why, and what would be right. Never holds the value."""

    field: str
    code: FieldCode
    message: str


class IbexError(Exception):
    """Root of everything that IBEX refuses or fails with.

    ``message`` is safe to show to a client and to log: no subclass puts a secret or a message's text into it.
    """

    code: ClassVar[ErrorCode] = ErrorCode.INTERNAL_ERROR
    default_message: ClassVar[str] = "An internal error occurred."

    def __init__(self, message: str | None = None, *, detail: str | None = None) -> None:
        self.message = message or self.default_message
        self.detail = detail
        super().__init__(self.message)


class InternalError(IbexError):
    """A bug. Nothing of it leaks to the client."""


class InvalidJsonError(IbexError):
    """The body is not one JSON object."""

    code = ErrorCode.INVALID_JSON
    default_message = "The request body must be one JSON object."


class ValidationError(IbexError):
    """Fields or headers are invalid. ``field_errors`` lists the first ``MAX_FIELD_ERRORS`` of them."""

    code = ErrorCode.VALIDATION_ERROR
    default_message = "The request is not valid."

    def __init__(self, field_errors: tuple[FieldError, ...]) -> None:
        super().__init__("; ".join(f"{e.field}: {e.message}" for e in field_errors[:3]) or None)
        self.field_errors = field_errors[:MAX_FIELD_ERRORS]


class MissingAgentIdError(IbexError):
    """No agent was named and the token is bound to none."""

    code = ErrorCode.MISSING_AGENT_ID
    default_message = "Name an agent in X-IBEX-Agent-ID, or use a token that is bound to one."


class MissingTokenError(IbexError):
    """No bearer token came with the request."""

    code = ErrorCode.MISSING_TOKEN
    default_message = "A personal access token is required: Authorization: Bearer <token>."


class InvalidTokenError(IbexError):
    """The token is malformed, unknown, expired or revoked; which of them is not said."""

    code = ErrorCode.INVALID_TOKEN
    default_message = "The personal access token is not valid."


class InsufficientPermissionsError(IbexError):
    """The token does not allow this."""

    code = ErrorCode.INSUFFICIENT_PERMISSIONS
    default_message = "The token's permissions do not allow this."


class AgentNotAuthorizedError(IbexError):
    """The agent is unknown or belongs to another organization; which of them is not said."""

    code = ErrorCode.AGENT_NOT_AUTHORIZED
    default_message = "The token may not act as this agent."


class AgentSuspendedError(IbexError):
    """The agent is paused, suspended or archived."""

    code = ErrorCode.AGENT_SUSPENDED
    default_message = "The agent is not active."


class NotFoundError(IbexError):
    """There is no such route or thing."""

    code = ErrorCode.NOT_FOUND
    default_message = "Not found."


class MethodNotAllowedError(IbexError):
    """The route exists, but not for this method."""

    code = ErrorCode.METHOD_NOT_ALLOWED
    default_message = "The method is not allowed here."


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


class ClientClosedRequestError(IbexError):
    """The client went away; nobody is told, it is only recorded."""

    code = ErrorCode.CLIENT_CLOSED_REQUEST
    default_message = "The client closed the request."


class RetryableError(IbexError):
    """Trying again later may help; ``retry_after_s`` is in seconds, None where nothing is known."""

    def __init__(
        self, message: str | None = None, *, detail: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, detail=detail)
        self.retry_after_s = retry_after_s


class RateLimitedError(RetryableError):
    """The organization's limit, or the provider's."""

    code = ErrorCode.RATE_LIMITED
    default_message = "Too many requests."


class ServiceDegradedError(RetryableError):
    """Something that must be known to answer safely cannot be known now."""

    code = ErrorCode.SERVICE_DEGRADED
    default_message = "Authentication is temporarily unavailable. Retry later."


class TooManyGuessesError(ServiceDegradedError):
    """Too many wrong secrets for one token id: another attempt is not made now (ADR 0040)."""


class OutcomeUnknownError(ServiceDegradedError):
    """A change was sent to be committed and no answer came: it was made, or was not, or will yet be."""


class AuthUnavailableError(RetryableError):
    """The agent cannot be checked now."""

    code = ErrorCode.AUTH_UNAVAILABLE
    default_message = "The agent cannot be verified right now. Retry later."


class TooManyLookupsError(AuthUnavailableError):
    """Too many lookups of unverified agents are in progress: another one is not made now (ADR 0040)."""


class SourceUnavailableError(RetryableError):
    """Who knows tokens and agents has answered: it cannot look them up now.

    That is more than silence: while no change has been announced either, what it said before still holds (ADR 0045).
    """


class TokenSourceUnavailableError(ServiceDegradedError, SourceUnavailableError):
    """The token cannot be checked now, and it is the source itself that says so."""


class AgentSourceUnavailableError(AuthUnavailableError, SourceUnavailableError):
    """The agent cannot be checked now, and it is the source itself that says so."""


class OverloadedError(RetryableError):
    """A bounded resource of the proxy is full. ``attempts`` is how many tries had reached the provider before that."""

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
    """No provider routes this model."""

    code = ErrorCode.PROVIDER_NOT_CONFIGURED
    default_message = "No provider is configured for this model. GET /v1/models lists the available models."


class ProviderError(RetryableError):
    """The provider failed; ``provider_request_id`` and ``attempts`` say which request and after how many tries.

    ``provider_status`` is its own number for what it answered, for the operator's eyes alone: 401 in OpenAI's API where
    it refuses our key. None where there was no answer, or where ``ProviderRefusedError`` tells the client the same.
    """

    def __init__(
        self,
        message: str | None = None,
        *,
        detail: str | None = None,
        retry_after_s: float | None = None,
        provider_request_id: str | None = None,
        attempts: int = 1,
        provider_status: int | None = None,
    ) -> None:
        super().__init__(message, detail=detail, retry_after_s=retry_after_s)
        self.provider_request_id = provider_request_id
        self.attempts = attempts
        self.provider_status = provider_status


class ProviderUnavailableError(ProviderError):
    """The provider refused our key, failed, or could not be reached."""

    code = ErrorCode.PROVIDER_UNAVAILABLE
    default_message = "The provider is not available."


class ProviderTimeoutError(ProviderError):
    """The provider did not answer in time."""

    code = ErrorCode.PROVIDER_TIMEOUT
    default_message = "The provider did not answer in time."


class ProviderRateLimitedError(ProviderError):
    """The provider's own limit was reached, after retries."""

    code = ErrorCode.RATE_LIMITED
    default_message = "The provider's rate limit was reached."


class Refusal(StrEnum):
    """How the provider judged a request that it refused; the client is told the same."""

    BAD_REQUEST = "bad_request"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    TOO_LARGE = "too_large"
    UNPROCESSABLE = "unprocessable"


class ProviderRefusedError(ProviderError):
    """The provider found the request itself wrong.

    ``detail`` is the provider's message to the client; ``provider_type``, ``provider_code`` and ``param`` are None
    where the provider's answer was not in OpenAI's error shape.
    """

    code = ErrorCode.INVALID_REQUEST
    default_message = "The provider refused the request."

    def __init__(
        self,
        refusal: Refusal,
        *,
        detail: str | None = None,
        provider_type: str | None = None,
        provider_code: str | None = None,
        param: str | None = None,
        provider_request_id: str | None = None,
        attempts: int = 1,
    ) -> None:
        super().__init__(detail=detail, provider_request_id=provider_request_id, attempts=attempts)
        self.refusal = refusal
        self.provider_type = provider_type
        self.provider_code = provider_code
        self.param = param
