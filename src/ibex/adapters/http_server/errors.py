"""The mapping of domain errors to HTTP: the table of statuses, and the error envelope."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import msgspec
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException

from ibex.adapters.http_server.asgi import JSON, Response
from ibex.adapters.http_server.exchange_headers import exchange_headers
from ibex.domain.errors import (
    AuthUnavailableError,
    ErrorCode,
    FieldCode,
    FieldError,
    IbexError,
    InternalError,
    MethodNotAllowedError,
    NotFoundError,
    OverloadedError,
    ProviderNotConfiguredError,
    RequestTimeoutError,
    ResponseNotFoundError,
    RetryableError,
    ServiceDegradedError,
    UpgradeRefusedError,
    ValidationError,
)
from ibex.domain.provider_errors import ProviderError, ProviderRateLimitedError, ProviderRefusal, ProviderRefusedError
from ibex.domain.proxying.admission import AGENT_FIELD
from ibex.domain.proxying.proxy_request import SESSION_FIELD

if TYPE_CHECKING:
    from ibex.adapters.http_server.asgi import Headers
    from ibex.adapters.http_server.context import RequestContext
    from ibex.domain.clock import Clock

_MAX_FIELD_CHARACTERS: Final = 128
_MAX_CHARACTERS: Final = 512
_INVALID: Final = "invalid_request_error"
_AUTHENTICATION: Final = "authentication_error"
_PERMISSION: Final = "permission_error"
_RATE_LIMIT: Final = "rate_limit_error"
_SERVER: Final = "server_error"

TABLE: Final = {
    ErrorCode.INVALID_JSON: (400, _INVALID),
    ErrorCode.VALIDATION_ERROR: (400, _INVALID),
    ErrorCode.INVALID_REQUEST: (400, _INVALID),
    ErrorCode.MISSING_AGENT_ID: (400, _INVALID),
    ErrorCode.MISSING_TOKEN: (401, _AUTHENTICATION),
    ErrorCode.INVALID_TOKEN: (401, _AUTHENTICATION),
    ErrorCode.INSUFFICIENT_PERMISSIONS: (403, _PERMISSION),
    ErrorCode.AGENT_NOT_AUTHORIZED: (403, _PERMISSION),
    ErrorCode.AGENT_SUSPENDED: (403, _PERMISSION),
    ErrorCode.NOT_FOUND: (404, _INVALID),
    ErrorCode.METHOD_NOT_ALLOWED: (405, _INVALID),
    ErrorCode.REQUEST_TIMEOUT: (408, _INVALID),
    ErrorCode.PAYLOAD_TOO_LARGE: (413, _INVALID),
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: (415, _INVALID),
    ErrorCode.UPGRADE_REFUSED: (426, _INVALID),
    ErrorCode.HEADERS_TOO_LARGE: (431, _INVALID),
    ErrorCode.RATE_LIMITED: (429, _RATE_LIMIT),
    ErrorCode.CLIENT_CLOSED_REQUEST: (499, _INVALID),
    ErrorCode.INTERNAL_ERROR: (500, _SERVER),
    ErrorCode.PROVIDER_NOT_CONFIGURED: (404, _INVALID),
    ErrorCode.RESPONSE_NOT_FOUND: (404, _INVALID),
    ErrorCode.SERVICE_DEGRADED: (503, _SERVER),
    ErrorCode.AUTH_UNAVAILABLE: (503, _SERVER),
    ErrorCode.PROVIDER_UNAVAILABLE: (503, _SERVER),
    ErrorCode.OVERLOADED: (503, _SERVER),
    ErrorCode.PROVIDER_TIMEOUT: (504, _SERVER),
}

_HEADERS_OF_FIELDS: Final = {AGENT_FIELD: "X-IBEX-Agent-ID", SESSION_FIELD: "X-IBEX-Session-ID"}


class NotHttpError(IbexError):
    """The request is not valid HTTP/1.1 (RFC 9112)."""

    code = ErrorCode.VALIDATION_ERROR
    default_message = "The request is not valid HTTP/1.1."


_REFUSAL_STATUSES: Final = {
    ProviderRefusal.BAD_REQUEST: 400,
    ProviderRefusal.PAYMENT_REQUIRED: 402,
    ProviderRefusal.MODEL_FORBIDDEN: 403,
    ProviderRefusal.NOT_FOUND: 404,
    ProviderRefusal.CONFLICT: 409,
    ProviderRefusal.TOO_LARGE: 413,
    ProviderRefusal.UNPROCESSABLE: 422,
}
_WITH_DEFAULT_RETRY_AFTER: Final = (ServiceDegradedError, AuthUnavailableError, OverloadedError)


def status_of(error: IbexError | None) -> int:
    """Return the HTTP status of an outcome: 200 without an error, 499 if the client disconnected."""
    if error is None:
        return 200
    if isinstance(error, ProviderRefusedError):
        return _REFUSAL_STATUSES[error.refusal]
    if isinstance(error, ResponseNotFoundError) and error.continues:
        return 400  # as OpenAI does for a previous response
    return TABLE[error.code][0]


def domain_error(error: Exception) -> IbexError:
    """Return the domain error for an exception. An unexpected one becomes an ``InternalError`` without details."""
    if isinstance(error, IbexError):
        return error
    if isinstance(error, NotFoundException):
        return NotFoundError()
    if isinstance(error, MethodNotAllowedException):
        return MethodNotAllowedError()
    if isinstance(error, HTTPException) and error.status_code < 500:  # noqa: PLR2004 - the framework's other refusals
        return ValidationError((FieldError("Host", FieldCode.INVALID_FORMAT, "must be a host name"),))
    return InternalError()


class ErrorResponses:
    """Renders errors as responses and events, in the error envelope."""

    def __init__(self, clock: Clock, docs_base: str | None) -> None:
        """Set the base URL of the pages about error codes. With None, errors have no ``docs_url``."""
        self._clock = clock
        self._docs_base = docs_base.rstrip("/") if docs_base else None

    def response(self, error: IbexError, context: RequestContext, *, allow: str | None = None) -> Response:
        """Return the response for an error. ``allow`` is the value of a 405's Allow header."""
        body = msgspec.json.encode(self.envelope(error, context))
        return Response(status_of(error), JSON, body, exchange_headers(context.in_flight) + _headers(error, allow))

    def encoded_envelope(self, error: IbexError, context: RequestContext) -> bytes:
        """Return the envelope as JSON on one line."""
        return msgspec.json.encode(self.envelope(error, context))

    def envelope(self, error: IbexError, context: RequestContext) -> dict[str, Any]:
        """Return the envelope. Members that do not apply are omitted, except for ``param``, which is null."""
        field_errors: tuple[FieldError, ...] = ()
        if isinstance(error, ValidationError):
            error = _with_names_of_headers(error)
            field_errors = error.field_errors
        refused = error if isinstance(error, ProviderRefusedError) else None
        judged = error if isinstance(error, ProviderRefusedError | ProviderRateLimitedError) else None
        code = _code(error)
        content: dict[str, Any] = {
            "code": code,
            "ibex_code": None if code == error.code else error.code,
            "type": (judged and judged.provider_type) or TABLE[error.code][1],
            # OpenAI's SDKs show only this member, so it must contain the provider's reason.
            "message": (refused and refused.detail) or error.message,
            "param": refused.param if refused else _param(error, field_errors),
            "detail": error.detail if refused or error.detail is None else error.detail[:_MAX_CHARACTERS],
            "docs_url": self._docs_base and f"{self._docs_base}/{error.code}",
            "request_id": context.request_id,
            "timestamp": self._clock.now(),
            "field_errors": [_field_error(e) for e in field_errors] or None,
        }
        return {"error": {name: value for name, value in content.items() if value is not None or name == "param"}}


def _code(error: IbexError) -> str:
    """Return the code that programs compare: the provider's if it refused the request, or the one that OpenAI uses."""
    if isinstance(error, ProviderNotConfiguredError):
        return "model_not_found"
    if isinstance(error, ResponseNotFoundError):
        return "previous_response_not_found"
    if isinstance(error, ProviderRefusedError | ProviderRateLimitedError):
        return error.provider_code or error.code
    return error.code


def _param(error: IbexError, field_errors: tuple[FieldError, ...]) -> str | None:
    if isinstance(error, ResponseNotFoundError) and error.continues:
        return "previous_response_id"
    return next((e.field for e in field_errors), None)


def _with_names_of_headers(error: ValidationError) -> ValidationError:
    """Return the error with header names in place of IBEX's internal field names."""
    return ValidationError(
        tuple(replace(e, field=_HEADERS_OF_FIELDS.get(e.field, e.field)) for e in error.field_errors)
    )


def _field_error(error: FieldError) -> dict[str, str]:
    return {
        "field": error.field[:_MAX_FIELD_CHARACTERS],
        "code": error.code,
        "message": error.message[:_MAX_CHARACTERS],
    }


def _headers(error: IbexError, allow: str | None) -> Headers:
    by_provider = isinstance(error, ProviderError)
    headers = [(b"x-ibex-error-source", b"provider" if by_provider else b"proxy")]
    if isinstance(error, ProviderError) and (error.attempts > 1 or error.is_hopeless):
        # IBEX has retried already (ADR 0019). OpenAI's SDKs retry after 408, 409, 429 and 5xx and would multiply the
        # attempts.
        headers.append((b"x-should-retry", b"false"))
    retry_after_s = _retry_after_s(error)
    if retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % retry_after_s))
    if TABLE[error.code][1] == _AUTHENTICATION:
        headers.append((b"www-authenticate", b"Bearer"))  # RFC 6750, section 3
    if isinstance(error, RequestTimeoutError):
        headers.append(
            (b"connection", b"close")
        )  # RFC 9110, section 15.5.9: the server does not read the rest of the body
    if isinstance(error, UpgradeRefusedError):  # RFC 9110, 15.5.22: 426 names the protocol to use instead
        headers.append((b"upgrade", b"HTTP/1.1"))
    if allow:
        headers.append((b"allow", allow.encode("latin-1")))
    return headers


def _retry_after_s(error: IbexError) -> int | None:
    if not isinstance(error, RetryableError):
        return None
    if error.retry_after_s is None or not math.isfinite(error.retry_after_s):
        return 1 if isinstance(error, _WITH_DEFAULT_RETRY_AFTER) else None
    return max(1, math.ceil(error.retry_after_s))
