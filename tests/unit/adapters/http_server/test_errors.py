"""Every error has one status, one type, one envelope."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from litestar.exceptions import ClientException, MethodNotAllowedException, NotFoundException

from harness.http_scene import scope_of
from harness.memory.clock import ManualClock
from harness.memory.ids import SequentialIds
from ibex.adapters.http_server.context import RequestContext
from ibex.adapters.http_server.errors import TABLE, ErrorAnswers, domain_error, status_of
from ibex.adapters.openai_api.chat_completions import ChatCompletions
from ibex.domain.errors import (
    AuthUnavailableError,
    ClientClosedRequestError,
    ErrorCode,
    FieldCode,
    FieldError,
    IbexError,
    InternalError,
    InvalidTokenError,
    MethodNotAllowedError,
    MissingTokenError,
    NotFoundError,
    OverloadedError,
    ProviderNotConfiguredError,
    ProviderRateLimitedError,
    ProviderRefusedError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    RateLimitedError,
    Refusal,
    ServiceDegradedError,
    ValidationError,
)

if TYPE_CHECKING:
    from ibex.adapters.http_server.asgi import Response


def answer(error: IbexError, docs_base: str | None = None) -> Response:
    """Return the answer to an error."""
    context = RequestContext.begin(scope_of("POST", "/", []), SequentialIds(), 0)
    return ErrorAnswers(ManualClock(), docs_base).answer(error, context)


def envelope(error: IbexError, docs_base: str | None = None) -> dict[str, Any]:
    """Return the content of an error's envelope."""
    content: dict[str, Any] = json.loads(answer(error, docs_base).body)["error"]
    return content


def headers(error: IbexError) -> dict[str, str]:
    """Return the headers of an error's answer."""
    return {name.decode(): value.decode() for name, value in answer(error).headers}


def subclasses(kind: type[IbexError]) -> set[type[IbexError]]:
    """Return a class with all its subclasses."""
    return {kind}.union(*(subclasses(child) for child in kind.__subclasses__()))


def test_every_code_is_in_the_table() -> None:
    """A new code without a status fails here, not in front of a client."""
    assert set(TABLE) == set(ErrorCode)
    assert {kind.code for kind in subclasses(IbexError)} <= set(TABLE)


def test_the_statuses_are_those_of_the_spec() -> None:
    """No error is 200; a client that has gone is 499."""
    assert status_of(None) == 200
    assert status_of(ClientClosedRequestError()) == 499
    assert status_of(ProviderNotConfiguredError()) == 501
    assert status_of(ProviderTimeoutError()) == 504
    assert [status_of(ProviderRefusedError(refusal)) for refusal in Refusal] == [400, 404, 409, 413, 422]


def test_the_envelope_of_a_plain_error() -> None:
    """What does not apply is left out; param is null, as OpenAI writes it."""
    assert envelope(InvalidTokenError()) == {
        "code": "INVALID_TOKEN",
        "type": "authentication_error",
        "message": "The personal access token is not valid.",
        "param": None,
        "request_id": str(SequentialIds().uuid7()),
        "timestamp": "2026-01-02T03:04:05Z",
    }


def test_field_errors_are_all_listed() -> None:
    """The first one is the param, which OpenAI's SDKs show."""
    wrong = (
        FieldError("model", FieldCode.REQUIRED, "is required"),
        FieldError("messages[0].role", FieldCode.INVALID_ENUM, "must be one of these"),
    )

    content = envelope(ValidationError(wrong))

    assert content["param"] == "model"
    assert content["field_errors"] == [
        {"field": "model", "code": "REQUIRED", "message": "is required"},
        {"field": "messages[0].role", "code": "INVALID_ENUM", "message": "must be one of these"},
    ]


def test_what_the_provider_found_wrong_reaches_the_client() -> None:
    """Its message, in what SDKs show as well, its type and param, its code under a name of its own."""
    refused = ProviderRefusedError(
        Refusal.BAD_REQUEST,
        detail="This model's maximum context length is 8 tokens.",
        provider_type="invalid_request_error",
        provider_code="context_length_exceeded",
        param="messages",
    )

    content = envelope(refused)

    assert content["code"] == "INVALID_REQUEST"
    assert content["message"] == content["detail"] == "This model's maximum context length is 8 tokens."
    assert content["type"] == "invalid_request_error"
    assert content["provider_code"] == "context_length_exceeded"
    assert content["param"] == "messages"


def test_a_provider_that_says_nothing_leaves_our_own_words() -> None:
    """No member is invented for it."""
    content = envelope(ProviderRefusedError(Refusal.CONFLICT))

    assert content["message"] == "The provider refused the request."
    assert content["type"] == "invalid_request_error"
    assert not {"detail", "provider_code"} & set(content)


@pytest.mark.parametrize("base", ["https://docs.test/errors", "https://docs.test/errors/"])
def test_documentation_is_linked_where_there_is_some(base: str) -> None:
    """By the error's code."""
    assert envelope(NotFoundError(), base)["docs_url"] == "https://docs.test/errors/NOT_FOUND"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RateLimitedError(retry_after_s=17), "17"),
        (RateLimitedError(retry_after_s=0.2), "1"),
        (RateLimitedError(retry_after_s=1.2), "2"),
        (RateLimitedError(retry_after_s=-5), "1"),
        (ProviderRateLimitedError(retry_after_s=20), "20"),
        (ProviderRateLimitedError(retry_after_s=float("inf")), None),
        (ProviderRateLimitedError(), None),
        (ProviderUnavailableError(), None),
        (ServiceDegradedError(), "1"),
        (AuthUnavailableError(), "1"),
        (OverloadedError(retry_after_s=3), "3"),
        (InternalError(), None),
    ],
)
def test_retry_after_is_whole_seconds_and_at_least_one(error: IbexError, expected: str | None) -> None:
    """What is known of the wait is told; our own 503s always name one."""
    assert headers(error).get("retry-after") == expected


@pytest.mark.parametrize(
    ("error", "source", "should_retry"),
    [
        (ProviderUnavailableError(), "provider", "false"),
        (ProviderTimeoutError(), "provider", "false"),
        (ProviderRateLimitedError(retry_after_s=5), "provider", "false"),
        (ProviderRefusedError(Refusal.CONFLICT), "provider", "false"),
        (RateLimitedError(retry_after_s=5), "proxy", None),
        (ServiceDegradedError(), "proxy", None),
        (ProviderNotConfiguredError(), "proxy", "false"),
        (InternalError(), "proxy", None),
    ],
)
def test_whose_error_it_is_and_whether_to_try_again(error: IbexError, source: str, should_retry: str | None) -> None:
    """What was tried again already, or never helps, no SDK shall multiply; other refusals of its own SDKs may retry."""
    assert headers(error)["x-ibex-error-source"] == source
    assert headers(error).get("x-should-retry") == should_retry


def test_a_missing_token_names_the_scheme() -> None:
    """As RFC 6750 wants it."""
    assert headers(MissingTokenError())["www-authenticate"] == "Bearer"
    assert "www-authenticate" not in headers(NotFoundError())


def test_a_stream_ends_with_the_same_envelope() -> None:
    """One event, one line, closed by a blank one."""
    context = RequestContext.begin(scope_of("POST", "/", []), SequentialIds(), 0)

    envelope = ErrorAnswers(ManualClock(), None).encoded_envelope(ProviderTimeoutError("a\nb"), context)
    event = ChatCompletions().error_event(envelope)

    assert event.startswith(b'data: {"error":')
    assert event.endswith(b"}\n\n")
    assert event.count(b"\n") == 2
    assert json.loads(event[6:])["error"]["code"] == "PROVIDER_TIMEOUT"


@pytest.mark.parametrize(
    ("raised", "meaning"),
    [
        (NotFoundException(), NotFoundError),
        (MethodNotAllowedException(), MethodNotAllowedError),
        (ClientException("Invalid host header"), ValidationError),
        (RuntimeError("a secret"), InternalError),
        (KeyError("a secret"), InternalError),
        (ServiceDegradedError(), ServiceDegradedError),
    ],
)
def test_every_exception_means_something(raised: Exception, meaning: type[IbexError]) -> None:
    """The framework's, the domain's, and bugs, of which nothing leaks."""
    error = domain_error(raised)

    assert type(error) is meaning
    assert b"secret" not in answer(error).body
