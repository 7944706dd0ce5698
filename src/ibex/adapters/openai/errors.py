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
from ibex.adapters.http_client.not_connected import NotConnected
from ibex.domain.errors import OverloadedError
from ibex.domain.provider_errors import (
    ProviderError,
    ProviderRateLimitedError,
    ProviderRefusal,
    ProviderRefusedError,
    ProviderTimeoutError,
    ProviderUnavailableError,
)
from ibex.domain.value_object import value_object

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ibex.domain.errors import RetryableError
    from ibex.domain.provider_errors import AttemptFacts

    _FromResponse = Callable[["ErrorResponse", "AttemptInfo"], ProviderError]
    _FromException = Callable[["AttemptInfo"], RetryableError]

_TOO_LARGE: Final = "Request too large"
"""How OpenAI's message begins if one request exceeds the limit of tokens per minute."""


@value_object
class AttemptInfo:
    """The number of attempts so far, and two headers of the current response, None if it lacks them.

    ``provider_request_id`` is the provider's id of the request, ``processing_ms`` its processing time in milliseconds.
    """

    attempts: int
    provider_request_id: str | None = None
    processing_ms: int | None = None


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
    error = next(make for kind, make in _BY_EXCEPTION.items() if isinstance(failure, kind))(attempt)
    if isinstance(error, ProviderError) and isinstance(failure, NotConnected):
        error.connect_failure = str(failure)
    return error


def not_a_completion(attempt: AttemptInfo) -> ProviderUnavailableError:
    """Return the error for a response with a success status whose body is not what was requested."""
    return ProviderUnavailableError("The provider returned a malformed response.", **_attempt_fields(attempt))


def _attempt_fields(attempt: AttemptInfo) -> AttemptFacts:
    return {
        "attempts": attempt.attempts,
        "provider_request_id": attempt.provider_request_id,
        "processing_ms": attempt.processing_ms,
    }


@dataclass(frozen=True, slots=True)
class _Reason:
    """What an error body says; None for each part that it does not contain."""

    message: str | None = None
    type: str | None = None
    code: str | None = None
    param: str | None = None


def _is_hopeless(reason: _Reason) -> bool:
    """Return whether a 429 means that no retry can succeed: the quota is used up, or the request is too large."""
    return "insufficient_quota" in (reason.code, reason.type) or (reason.message or "").startswith(_TOO_LARGE)


def _refused(refusal: ProviderRefusal, response: ErrorResponse, attempt: AttemptInfo) -> ProviderRefusedError:
    reason = _reason(response.body)
    return ProviderRefusedError(
        refusal,
        detail=reason.message,
        provider_type=reason.type,
        provider_code=reason.code,
        param=reason.param,
        **_attempt_fields(attempt),
    )


def _forbidden(response: ErrorResponse, attempt: AttemptInfo) -> ProviderError:
    """A 403 for a model refuses the request. Any other 403 refuses the proxy's key and is not the client's to see."""
    if _reason(response.body).code == "model_not_found":
        return _refused(ProviderRefusal.MODEL_FORBIDDEN, response, attempt)
    return _unavailable(response, attempt)


def _reason(body: bytes | None) -> _Reason:
    """Return the reason in an error body, whichever shape it has.

    Servers of OpenAI's API send ``error`` as an object, a text or in a list, or ``message`` or ``detail`` at the top
    level; Azure nests an ``innererror``; proxies in between send plain text.
    """
    try:
        content: Any = msgspec.json.decode(body or b"")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _Reason(_plain_text(body or b""))
    if isinstance(content, list) and content:
        content = content[0]
    if isinstance(content, str):
        return _Reason(_text(content))
    if not isinstance(content, dict):
        return _Reason()
    error = content.get("error")
    if not isinstance(error, dict):
        message = error if isinstance(error, str) else content.get("message", content.get("detail"))
        error = {**content, "message": message}
    inner = error.get("innererror")
    inner_code = inner.get("code") if isinstance(inner, dict) else None
    return _Reason(
        _message(error.get("message")),
        _text(error.get("type")),
        _text(error.get("code")) or _text(inner_code),
        _text(error.get("param")),
    )


def _message(value: object) -> str | None:
    """Return a message: a text, or the ``msg`` of each problem in a list, as FastAPI sends them."""
    if isinstance(value, list):
        found = [problem.get("msg") for problem in value if isinstance(problem, dict)]
        return "; ".join(text for text in found if isinstance(text, str)) or None
    return _text(value)


def _plain_text(body: bytes) -> str | None:
    """Return a body that is neither JSON nor HTML; None for one that only begins like them."""
    text = body.decode("utf-8", "replace").strip()
    return text if text and not text.startswith(("<", "{", "[")) and text.isprintable() else None


def _text(value: object) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) and value else None


def _rate_limited(response: ErrorResponse, attempt: AttemptInfo) -> ProviderRateLimitedError:
    reason = _reason(response.body)
    return ProviderRateLimitedError(
        provider_type=reason.type,
        provider_code=reason.code,
        is_hopeless=_is_hopeless(reason),
        retry_after_s=response.retry_after_s,
        provider_status=response.status,
        **_attempt_fields(attempt),
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
    400: partial(_refused, ProviderRefusal.BAD_REQUEST),
    402: partial(_refused, ProviderRefusal.PAYMENT_REQUIRED),
    403: _forbidden,
    404: partial(_refused, ProviderRefusal.NOT_FOUND),
    409: partial(_refused, ProviderRefusal.CONFLICT),
    413: partial(_refused, ProviderRefusal.TOO_LARGE),
    422: partial(_refused, ProviderRefusal.UNPROCESSABLE),
    429: _rate_limited,
}
"""Any other status means that the provider is unavailable. This includes 401, which refuses the proxy's key."""

_BY_EXCEPTION: Final[Mapping[type[Exception], _FromException]] = {  # the first match counts, so the order matters
    httpx.PoolTimeout: _pool_exhausted,
    httpx.TimeoutException: _timed_out,
    TimeoutError: _timed_out,
    httpx.TransportError: _broken,
    UnreadableResponseError: _broken,
    OSError: _broken,
}
