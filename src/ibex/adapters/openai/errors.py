"""The one table from OpenAI's statuses and httpx's exceptions to the domain's errors.

No text of the provider is in any of them, but for its judgement of a request that it found wrong.
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

    _OfAnswer = Callable[["RefusedAnswer", "AttemptInfo"], ProviderError]
    _OfFailure = Callable[["AttemptInfo"], RetryableError]


@value_object
class AttemptInfo:
    """Which request it was: the number of tries up to it, and the provider's own id of it, None where it gave none."""

    attempts: int
    provider_request_id: str | None = None


@dataclass(frozen=True, slots=True)
class RefusedAnswer:
    """An answer that is no success. ``body`` is None where it could not be read; ``retry_after_s`` is in seconds."""

    status: int
    body: bytes | None = None
    retry_after_s: float | None = None

    def __repr__(self) -> str:
        return f"<RefusedAnswer {self.status}>"


def error_of_answer(answer: RefusedAnswer, attempt: AttemptInfo) -> ProviderError:
    """Return the error that an answer's status means."""
    return _OF_STATUS.get(answer.status, _unavailable)(answer, attempt)


def error_of_failure(failure: Exception, attempt: AttemptInfo) -> RetryableError:
    """Return the error that one of ``FAILURES`` means."""
    return next(make for kind, make in _OF_FAILURE.items() if isinstance(failure, kind))(attempt)


def no_completion(attempt: AttemptInfo) -> ProviderUnavailableError:
    """Return the error for a success that holds nothing of use."""
    return ProviderUnavailableError("The provider's answer is not a completion.", **_said(attempt))


def _said(attempt: AttemptInfo) -> dict[str, Any]:
    return {"attempts": attempt.attempts, "provider_request_id": attempt.provider_request_id}


def _refused(refusal: Refusal, answer: RefusedAnswer, attempt: AttemptInfo) -> ProviderRefusedError:
    judgement = _judgement(answer.body)
    return ProviderRefusedError(
        refusal,
        detail=_text(judgement.get("message")),
        provider_type=_text(judgement.get("type")),
        provider_code=_text(judgement.get("code")),
        param=_text(judgement.get("param")),
        **_said(attempt),
    )


def _judgement(body: bytes | None) -> dict[str, Any]:
    """Return the members of ``error`` in a body of OpenAI's shape; none if it has another."""
    try:
        judgement = msgspec.json.decode(body or b"", type=dict[str, Any]).get("error")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}
    return judgement if isinstance(judgement, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _rate_limited(answer: RefusedAnswer, attempt: AttemptInfo) -> ProviderRateLimitedError:
    return ProviderRateLimitedError(retry_after_s=answer.retry_after_s, provider_status=answer.status, **_said(attempt))


def _unavailable(answer: RefusedAnswer, attempt: AttemptInfo) -> ProviderUnavailableError:
    return ProviderUnavailableError(retry_after_s=answer.retry_after_s, provider_status=answer.status, **_said(attempt))


def _connections_used_up(attempt: AttemptInfo) -> OverloadedError:
    return OverloadedError(retry_after_s=1, attempts=attempt.attempts - 1)  # this one was none


def _timed_out(attempt: AttemptInfo) -> ProviderTimeoutError:
    return ProviderTimeoutError(**_said(attempt))


def _broken(attempt: AttemptInfo) -> ProviderUnavailableError:
    return ProviderUnavailableError(**_said(attempt))


_OF_STATUS: Final[Mapping[int, _OfAnswer]] = {
    400: partial(_refused, Refusal.BAD_REQUEST),
    404: partial(_refused, Refusal.NOT_FOUND),
    409: partial(_refused, Refusal.CONFLICT),
    413: partial(_refused, Refusal.TOO_LARGE),
    422: partial(_refused, Refusal.UNPROCESSABLE),
    429: _rate_limited,
}
"""Any other status, among them 401 and 403 (our key, not the client's), means that the provider is not available."""

_OF_FAILURE: Final[Mapping[type[Exception], _OfFailure]] = {  # the first that fits, so the order matters
    httpx.PoolTimeout: _connections_used_up,
    httpx.TimeoutException: _timed_out,
    TimeoutError: _timed_out,
    httpx.TransportError: _broken,
    UnreadableResponseError: _broken,
    OSError: _broken,
}
