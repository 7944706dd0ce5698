"""The error hierarchy."""

from __future__ import annotations

import inspect

import pytest

from ibex.domain import errors, provider_errors
from ibex.domain.errors import (
    ErrorCode,
    FieldCode,
    FieldError,
    IbexError,
    RateLimitedError,
    RetryableError,
    SourceUnavailableError,
    ValidationError,
)
from ibex.domain.provider_errors import ProviderError, ProviderRefusal, ProviderRefusedError

ABSTRACT = {IbexError, RetryableError, ProviderError, SourceUnavailableError}
KINDS = [
    kind
    for module in (errors, provider_errors)
    for _, kind in inspect.getmembers(module, inspect.isclass)
    if kind.__module__ == module.__name__ and issubclass(kind, IbexError) and kind not in ABSTRACT
]


def test_every_code_has_an_error() -> None:
    """Every code is used by one class; only RATE_LIMITED has two sources. A subclass keeps the code."""
    codes = sorted(kind.code for kind in KINDS if not any(base in KINDS for base in kind.__bases__))

    assert set(codes) == set(ErrorCode)
    assert [code for code in codes if codes.count(code) > 1] == [ErrorCode.RATE_LIMITED] * 2


@pytest.mark.parametrize("code", ErrorCode)
def test_the_value_of_a_code_equals_its_name(code: ErrorCode) -> None:
    """Responses contain the value."""
    assert code == code.name


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_has_its_own_default_message(kind: type[IbexError]) -> None:
    """Only an internal error has the message of the base class, so that no detail of a bug leaks."""
    assert kind.default_message.endswith((".", ">."))
    assert (kind.default_message == IbexError.default_message) is (kind.code is ErrorCode.INTERNAL_ERROR)


def test_a_given_message_replaces_the_default() -> None:
    """The client reads the message. The detail is separate."""
    error = RateLimitedError("Slow down.", detail="more", retry_after_s=3)

    assert (str(error), error.message, error.detail, error.retry_after_s) == ("Slow down.", "Slow down.", "more", 3)
    assert str(RateLimitedError()) == RateLimitedError.default_message


def test_a_validation_error_names_the_first_three_fields_and_keeps_all() -> None:
    """The message stays short if many fields are wrong."""
    fields = tuple(FieldError(f"f{i}", FieldCode.REQUIRED, "is required") for i in range(5))

    error = ValidationError(fields)

    assert error.message == "f0: is required; f1: is required; f2: is required"
    assert error.field_errors == fields
    assert ValidationError(()).message == ValidationError.default_message


def test_the_providers_text_is_the_detail_and_not_the_message() -> None:
    """The provider's text is the detail, never the message, so that logs of messages do not contain it."""
    error = ProviderRefusedError(
        ProviderRefusal.BAD_REQUEST,
        detail="too long",
        provider_type="invalid_request_error",
        provider_code="context_length_exceeded",
        param="messages",
        provider_request_id="req_1",
        processing_ms=412,
        attempts=2,
    )

    assert "too long" not in str(error)
    assert "too long" not in repr(error)
    assert (error.detail, error.provider_code, error.param) == ("too long", "context_length_exceeded", "messages")
    assert (error.provider_request_id, error.attempts, error.retry_after_s) == ("req_1", 2, None)
    assert error.processing_ms == 412
