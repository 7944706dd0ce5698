"""The tables that map OpenAI's statuses and httpx's exceptions to the domain's errors.

The errors contain no text of the provider, except for its reasons to refuse a request of the client.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import httpx
import msgspec

from ibex.adapters.http_client.failures import UnreadableResponseError
from ibex.domain.errors import (
    OverloadedError,
    ProviderRateLimitedError,
    ProviderRefusedError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    Refusal,
)
from ibex.domain.value_object import value_object

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ibex.domain.errors import ProviderError, RetryableError

    _FromResponse = Callable[["ErrorResponse", "AttemptInfo"], ProviderError]
    _FromException = Callable[["AttemptInfo"], RetryableError]


@value_object
class AttemptInfo:
    """The number of attempts so far, and the provider's id of the current request; None if it gave none."""

    attempts: int
    provider_request_id: str | None = None


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """A response that is not a success. ``body`` is None if it could not be read; ``retry_after_s`` is in seconds."""

    status: int
    body: bytes | None = None
    retry_after_s: float | None = None

    def __repr__(self) -> str:
        return f"<ErrorResponse {self.status}>"


def error_from_response(response: ErrorResponse, attempt: AttemptInfo) -> ProviderError:
    """Return the domain error for the status of a response."""
    return _BY_STATUS.get(response.status, _unavailable)(response, attempt)


def error_from_exception(failure: Exception, attempt: AttemptInfo) -> RetryableError:
    """Return the domain error for one of ``http_client.failures.FAILURES``."""
    return next(make for kind, make in _BY_EXCEPTION.items() if isinstance(failure, kind))(attempt)


def not_a_completion(attempt: AttemptInfo) -> ProviderUnavailableError:
    """Return the error for a response with a success status whose body is not a completion."""
    return ProviderUnavailableError("The provider returned a malformed response.", **_attempt_fields(attempt))


def _attempt_fields(attempt: AttemptInfo) -> dict[str, Any]:
    return {"attempts": attempt.attempts, "provider_request_id": attempt.provider_request_id}


def _refused(refusal: Refusal, response: ErrorResponse, attempt: AttemptInfo) -> ProviderRefusedError:
    error_object = _error_object(response.body)
    return ProviderRefusedError(
        refusal,
        detail=_text(error_object.get("message")),
        provider_type=_text(error_object.get("type")),
        provider_code=_text(error_object.get("code")),
        param=_text(error_object.get("param")),
        **_attempt_fields(attempt),
    )


def _error_object(body: bytes | None) -> dict[str, Any]:
    """Return the object ``error`` of an error body; empty if the body is not in OpenAI's format."""
    try:
        error_object = msgspec.json.decode(body or b"", type=dict[str, Any]).get("error")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}
    return error_object if isinstance(error_object, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _rate_limited(response: ErrorResponse, attempt: AttemptInfo) -> ProviderRateLimitedError:
    return ProviderRateLimitedError(
        retry_after_s=response.retry_after_s, provider_status=response.status, **_attempt_fields(attempt)
    )


def _unavailable(response: ErrorResponse, attempt: AttemptInfo) -> ProviderUnavailableError:
    return ProviderUnavailableError(
        retry_after_s=response.retry_after_s, provider_status=response.status, **_attempt_fields(attempt)
    )


def _pool_exhausted(attempt: AttemptInfo) -> OverloadedError:
    return OverloadedError(retry_after_s=1, attempts=attempt.attempts - 1)  # this attempt sent no request


def _timed_out(attempt: AttemptInfo) -> ProviderTimeoutError:
    return ProviderTimeoutError(**_attempt_fields(attempt))


def _broken(attempt: AttemptInfo) -> ProviderUnavailableError:
    return ProviderUnavailableError(**_attempt_fields(attempt))


_BY_STATUS: Final[Mapping[int, _FromResponse]] = {
    400: partial(_refused, Refusal.BAD_REQUEST),
    404: partial(_refused, Refusal.NOT_FOUND),
    409: partial(_refused, Refusal.CONFLICT),
    413: partial(_refused, Refusal.TOO_LARGE),
    422: partial(_refused, Refusal.UNPROCESSABLE),
    429: _rate_limited,
}
"""Any other status means that the provider is unavailable. This includes 401 and 403, which refuse the proxy's key."""

_BY_EXCEPTION: Final[Mapping[type[Exception], _FromException]] = {  # the first match counts, so the order matters
    httpx.PoolTimeout: _pool_exhausted,
    httpx.TimeoutException: _timed_out,
    TimeoutError: _timed_out,
    httpx.TransportError: _broken,
    UnreadableResponseError: _broken,
    OSError: _broken,
}
