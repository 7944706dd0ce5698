"""Tests of the mapping of errors to HTTP."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from litestar.exceptions import ClientException, MethodNotAllowedException, NotFoundException

from harness.http_scene import scope_of
from harness.memory.clock import ManualClock
from harness.memory.ids import SequentialIds
from ibex.adapters.http_server.context import RequestContext
from ibex.adapters.http_server.errors import TABLE, ErrorResponses, domain_error, status_of
from ibex.adapters.openai_api.chat_response import ChatResponseReader
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
    RateLimitedError,
    ServiceDegradedError,
    ValidationError,
)
from ibex.domain.provider_errors import (
    ProviderRateLimitedError,
    ProviderRefusal,
    ProviderRefusedError,
    ProviderTimeoutError,
    ProviderUnavailableError,
)

if TYPE_CHECKING:
    from ibex.adapters.http_server.asgi import Response


def response_of(error: IbexError, docs_base: str | None = None) -> Response:
    """Return the response for an error."""
    context = RequestContext.begin(scope_of("POST", "/", []), SequentialIds(), 0)
    return ErrorResponses(ManualClock(), docs_base).response(error, context)


def envelope(error: IbexError, docs_base: str | None = None) -> dict[str, Any]:
    """Return the content of an error's envelope."""
    content: dict[str, Any] = json.loads(response_of(error, docs_base).body)["error"]
    return content


def headers(error: IbexError) -> dict[str, str]:
    """Return the headers of an error's response."""
    return {name.decode(): value.decode() for name, value in response_of(error).headers}


def subclasses(kind: type[IbexError]) -> set[type[IbexError]]:
    """Return a class with all its subclasses."""
    return {kind}.union(*(subclasses(child) for child in kind.__subclasses__()))


def test_every_code_is_in_the_table() -> None:
    """A new code without a status fails here, not at a client."""
    assert set(TABLE) == set(ErrorCode)
    assert {kind.code for kind in subclasses(IbexError)} <= set(TABLE)


def test_the_statuses_are_those_of_the_spec() -> None:
    """Without an error it is 200; for a client that disconnected it is 499."""
    assert status_of(None) == 200
    assert status_of(ClientClosedRequestError()) == 499
    assert status_of(ProviderNotConfiguredError()) == 404
    assert status_of(ProviderTimeoutError()) == 504
    assert [status_of(ProviderRefusedError(refusal)) for refusal in ProviderRefusal] == [
        400,
        402,
        403,
        404,
        409,
        413,
        422,
    ]


def test_the_envelope_of_a_plain_error() -> None:
    """Members that do not apply are omitted, but ``param`` is null, as in OpenAI's API."""
    assert envelope(InvalidTokenError()) == {
        "code": "INVALID_TOKEN",
        "type": "authentication_error",
        "message": "The personal access token is not valid.",
        "param": None,
        "request_id": str(SequentialIds().uuid7()),
        "timestamp": "2026-01-02T03:04:05Z",
    }


def test_field_errors_are_all_listed() -> None:
    """The first one is ``param``, which OpenAI's SDKs show."""
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


def test_the_providers_error_reaches_the_client() -> None:
    """``code`` is the provider's, because programs compare it. IBEX's own code is in ``ibex_code``."""
    refused = ProviderRefusedError(
        ProviderRefusal.BAD_REQUEST,
        detail="This model's maximum context length is 8 tokens.",
        provider_type="invalid_request_error",
        provider_code="context_length_exceeded",
        param="messages",
    )

    content = envelope(refused)

    assert (content["code"], content["ibex_code"]) == ("context_length_exceeded", "INVALID_REQUEST")
    assert content["message"] == content["detail"] == "This model's maximum context length is 8 tokens."
    assert content["type"] == "invalid_request_error"
    assert content["param"] == "messages"


def test_a_refusal_without_details_has_the_default_message() -> None:
    """The envelope has neither ``detail`` nor ``ibex_code``."""
    content = envelope(ProviderRefusedError(ProviderRefusal.CONFLICT))

    assert content["message"] == "The provider refused the request."
    assert content["type"] == "invalid_request_error"
    assert content["code"] == "INVALID_REQUEST"
    assert not {"detail", "ibex_code"} & set(content)


def test_the_providers_rate_limit_has_its_code_and_ibexs_text() -> None:
    """OpenAI's text names its account, which all organizations share, so IBEX replaces it."""
    content = envelope(ProviderRateLimitedError(provider_type="insufficient_quota", provider_code="insufficient_quota"))

    assert (content["code"], content["type"], content["ibex_code"]) == (
        "insufficient_quota",
        "insufficient_quota",
        "RATE_LIMITED",
    )
    assert content["message"] == "The provider's rate limit was reached."


def test_a_model_without_a_provider_has_openais_code() -> None:
    """OpenAI uses the same code for an unknown model."""
    content = envelope(ProviderNotConfiguredError())

    assert (content["code"], content["ibex_code"]) == ("model_not_found", "PROVIDER_NOT_CONFIGURED")


@pytest.mark.parametrize("base", ["https://docs.test/errors", "https://docs.test/errors/"])
def test_documentation_is_linked_if_it_exists(base: str) -> None:
    """The link ends with the code of the error."""
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
    """A known delay is sent. The proxy's own 503s always have one."""
    assert headers(error).get("retry-after") == expected


@pytest.mark.parametrize(
    ("error", "source", "should_retry"),
    [
        (ProviderUnavailableError(attempts=4), "provider", "false"),
        (ProviderUnavailableError(), "provider", None),
        (ProviderTimeoutError(), "provider", None),
        (ProviderRateLimitedError(retry_after_s=5, attempts=2), "provider", "false"),
        (ProviderRateLimitedError(retry_after_s=5), "provider", None),
        (ProviderRateLimitedError(is_hopeless=True), "provider", "false"),
        (ProviderRefusedError(ProviderRefusal.CONFLICT, attempts=4), "provider", "false"),
        (RateLimitedError(retry_after_s=5), "proxy", None),
        (ServiceDegradedError(), "proxy", None),
        (ProviderNotConfiguredError(), "proxy", None),
        (InternalError(), "proxy", None),
    ],
)
def test_an_error_has_its_source_and_says_whether_to_retry(
    error: IbexError, source: str, should_retry: str | None
) -> None:
    """SDKs must not retry an error that IBEX has retried, or that a retry cannot fix. They may retry all others."""
    assert headers(error)["x-ibex-error-source"] == source
    assert headers(error).get("x-should-retry") == should_retry


def test_a_missing_token_names_the_scheme() -> None:
    """RFC 6750 requires ``WWW-Authenticate`` on a missing token."""
    assert headers(MissingTokenError())["www-authenticate"] == "Bearer"
    assert "www-authenticate" not in headers(NotFoundError())


def test_a_stream_ends_with_the_same_envelope() -> None:
    """The envelope is on one line, because a line break would split the event."""
    context = RequestContext.begin(scope_of("POST", "/", []), SequentialIds(), 0)

    envelope = ErrorResponses(ManualClock(), None).encoded_envelope(ProviderTimeoutError("a\nb"), context)
    event = ChatResponseReader().error_event(envelope)

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
def test_every_exception_is_mapped(raised: Exception, meaning: type[IbexError]) -> None:
    """These are Litestar's exceptions, the domain's errors, and bugs, whose details are hidden."""
    error = domain_error(raised)

    assert type(error) is meaning
    assert b"secret" not in response_of(error).body
