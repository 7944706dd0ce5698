"""The errors of providers, independent of HTTP."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, TypedDict

from ibex.domain.errors import ErrorCode, RetryableError

if TYPE_CHECKING:
    from typing import Unpack


class AttemptFacts(TypedDict, total=False):
    """The facts about the attempts that a ``ProviderError`` contains in addition to the reason.

    ``attempts`` is their number, 1 by default. The other fields come from the last response, None if it lacks them: the
    provider's id of the request, and the processing time that the provider reports, in milliseconds.
    """

    attempts: int
    provider_request_id: str | None
    processing_ms: int | None


class ProviderError(RetryableError):
    """The provider failed. It has the members of ``AttemptFacts``.

    ``provider_status`` is the status code of its response, for operators only: OpenAI's API refuses our key with 401.
    None if there was no response, and in a ``ProviderRefusedError``, which passes the reason on to the client.
    ``connect_failure`` names the host and the reason if no connection was made, for operators only; None otherwise.
    ``is_hopeless`` is whether no retry of the same request can succeed.
    """

    is_hopeless = False

    def __init__(
        self,
        message: str | None = None,
        *,
        detail: str | None = None,
        retry_after_s: float | None = None,
        provider_status: int | None = None,
        **attempt: Unpack[AttemptFacts],
    ) -> None:
        super().__init__(message, detail=detail, retry_after_s=retry_after_s)
        self.attempts = attempt.get("attempts", 1)
        self.provider_request_id = attempt.get("provider_request_id")
        self.processing_ms = attempt.get("processing_ms")
        self.provider_status = provider_status
        self.connect_failure: str | None = None


class ProviderUnavailableError(ProviderError):
    """The provider refused our key, failed, or was not reachable."""

    code = ErrorCode.PROVIDER_UNAVAILABLE
    default_message = "The provider is not available."


class ProviderTimeoutError(ProviderError):
    """The provider did not answer in time."""

    code = ErrorCode.PROVIDER_TIMEOUT
    default_message = "The provider did not answer in time."


class ProviderRateLimitedError(ProviderError):
    """The provider's own rate limit was reached, even after retries, or its quota is used up.

    ``provider_type`` and ``provider_code`` are None if the provider gave none. Its message is not passed on: it names
    the account that organizations share.
    """

    code = ErrorCode.RATE_LIMITED
    default_message = "The provider's rate limit was reached."

    def __init__(
        self,
        *,
        provider_type: str | None = None,
        provider_code: str | None = None,
        is_hopeless: bool = False,
        retry_after_s: float | None = None,
        provider_status: int | None = None,
        **attempt: Unpack[AttemptFacts],
    ) -> None:
        super().__init__(retry_after_s=retry_after_s, provider_status=provider_status, **attempt)
        self.provider_type = provider_type
        self.provider_code = provider_code
        self.is_hopeless = is_hopeless


class ProviderRefusal(StrEnum):
    """The provider's reason for refusing a request. The client receives the same reason."""

    BAD_REQUEST = "bad_request"
    PAYMENT_REQUIRED = "payment_required"
    MODEL_FORBIDDEN = "model_forbidden"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    TOO_LARGE = "too_large"
    UNPROCESSABLE = "unprocessable"


class ProviderRefusedError(ProviderError):
    """The provider refused the request as invalid.

    ``detail`` is the provider's message to the client. ``provider_type``, ``provider_code`` and ``param`` are None if
    the response was not in OpenAI's error format.
    """

    code = ErrorCode.INVALID_REQUEST
    default_message = "The provider refused the request."

    def __init__(
        self,
        refusal: ProviderRefusal,
        *,
        detail: str | None = None,
        provider_type: str | None = None,
        provider_code: str | None = None,
        param: str | None = None,
        **attempt: Unpack[AttemptFacts],
    ) -> None:
        super().__init__(detail=detail, **attempt)
        self.refusal = refusal
        self.provider_type = provider_type
        self.provider_code = provider_code
        self.param = param
