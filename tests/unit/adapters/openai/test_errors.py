"""Tests of the mapping from statuses and exceptions to the domain's errors."""

from __future__ import annotations

import json
import ssl

import httpx
import pytest

from ibex.adapters.http_client.failures import FAILURES, UnreadableResponseError
from ibex.adapters.openai.errors import (
    AttemptInfo,
    ErrorResponse,
    error_from_exception,
    error_from_response,
    not_a_completion,
)
from ibex.domain.errors import IbexError, OverloadedError
from ibex.domain.provider_errors import (
    ProviderError,
    ProviderRateLimitedError,
    ProviderRefusal,
    ProviderRefusedError,
    ProviderTimeoutError,
    ProviderUnavailableError,
)

ATTEMPT = AttemptInfo(3, "req_1")
CANARY = "canary-5b1f"
BODY = json.dumps({"error": {"message": f"No {CANARY}", "type": "t", "param": "messages", "code": "c"}}).encode()


@pytest.mark.parametrize(
    ("status", "refusal"),
    [
        (400, ProviderRefusal.BAD_REQUEST),
        (402, ProviderRefusal.PAYMENT_REQUIRED),
        (404, ProviderRefusal.NOT_FOUND),
        (409, ProviderRefusal.CONFLICT),
        (413, ProviderRefusal.TOO_LARGE),
        (422, ProviderRefusal.UNPROCESSABLE),
    ],
)
def test_a_refused_request_keeps_the_providers_error(status: int, refusal: ProviderRefusal) -> None:
    """The error has the message, type, code and parameter of OpenAI's error, and the attempt."""
    error = error_from_response(ErrorResponse(status, BODY), ATTEMPT)
    assert isinstance(error, ProviderRefusedError)
    assert (error.refusal, error.detail, error.provider_type) == (refusal, f"No {CANARY}", "t")
    assert (error.provider_code, error.param) == ("c", "messages")
    assert (error.attempts, error.provider_request_id, error.provider_status) == (3, "req_1", None)


@pytest.mark.parametrize(
    "body",
    [
        None,
        b"",
        b"<html>",
        b"\x00\x01",
        b"[]",
        b"1",
        b"{}",
        b'{"error": null}',
        b'{"error": {}}',
        b'{"error": {"message": null, "type": 1.5, "code": true, "param": ["a"]}}',
        b'{"detail": [1, {"msg": 2}]}',
        b'{"error": ' + b"[" * 100_000,
    ],
)
def test_a_refusal_in_an_unknown_format_has_no_details(body: bytes | None) -> None:
    """IBEX does not guess the details."""
    error = error_from_response(ErrorResponse(400, body), ATTEMPT)
    assert isinstance(error, ProviderRefusedError)
    assert (error.detail, error.provider_type, error.provider_code, error.param) == (None, None, None, None)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"error":{"message":"m","type":"t","code":"c","param":"p"}}', ("m", "t", "c", "p")),
        (b'{"error":{"message":"m","code":400}}', ("m", None, "400", None)),
        (b'{"object":"error","message":"m","type":"t","code":40301,"param":null}', ("m", "t", "40301", None)),
        (b'[{"error":{"code":400,"message":"m","status":"INVALID_ARGUMENT"}}]', ("m", None, "400", None)),
        (b'{"error":"m"}', ("m", None, None, None)),
        (b'{"error":"m","type":"t","code":"c"}', ("m", "t", "c", None)),
        (b'{"detail":"m"}', ("m", None, None, None)),
        (b'{"detail":[{"loc":["body"],"msg":"m","type":"missing"},{"msg":"n"}]}', ("m; n", None, None, None)),
        (b'{"message":"m"}', ("m", None, None, None)),
        (b'{"error":{"message":"m","innererror":{"code":"c"}}}', ("m", None, "c", None)),
        (b'"m"', ("m", None, None, None)),
        (b" m\n", ("m", None, None, None)),
    ],
)
def test_the_reason_is_read_from_every_known_format(body: bytes, reason: tuple[str | None, ...]) -> None:
    """The formats are OpenAI's, vLLM's, Google's, FastAPI's and Azure's, and plain text."""
    error = error_from_response(ErrorResponse(400, body), ATTEMPT)
    assert isinstance(error, ProviderRefusedError)
    assert (error.detail, error.provider_type, error.provider_code, error.param) == reason


def test_a_403_for_a_model_refuses_the_request() -> None:
    """Any other 403 refuses the proxy's key, a fact that the client must not see."""
    body = b'{"error":{"message":"No access to the model.","type":"invalid_request_error","code":"model_not_found"}}'
    error = error_from_response(ErrorResponse(403, body), ATTEMPT)
    assert isinstance(error, ProviderRefusedError)
    assert (error.refusal, error.provider_code, error.detail) == (
        ProviderRefusal.MODEL_FORBIDDEN,
        "model_not_found",
        "No access to the model.",
    )


@pytest.mark.parametrize(
    ("body", "hopeless"),
    [
        (
            b'{"error":{"message":"No quota","type":"insufficient_quota","code":"insufficient_quota"}}',
            True,
        ),
        (b'{"error":{"message":"quota","type":"insufficient_quota","code":null}}', True),
        (b'{"error":{"message":"Request too large for gpt-4o on tokens per min","code":"rate_limit_exceeded"}}', True),
        (b'{"error":{"message":"Rate limit reached","type":"requests","code":"rate_limit_exceeded"}}', False),
        (b"", False),
        (None, False),
    ],
)
def test_an_exhausted_quota_and_a_request_that_is_too_large_are_hopeless(body: bytes | None, hopeless: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """A retry cannot fill a quota or shrink a request. The error omits the provider's text about the account."""
    response = ErrorResponse(429, body)
    error = error_from_response(response, ATTEMPT)
    assert isinstance(error, ProviderRateLimitedError)
    assert error.is_hopeless is hopeless
    assert str(error) == ProviderRateLimitedError.default_message


def test_the_providers_rate_limit_keeps_its_delay() -> None:
    """The client gets the delay that the provider asks for."""
    error = error_from_response(ErrorResponse(429, BODY, 7.5), ATTEMPT)
    assert isinstance(error, ProviderRateLimitedError)
    assert (error.retry_after_s, error.attempts, error.provider_request_id) == (7.5, 3, "req_1")
    assert (error.provider_status, error.provider_type, error.provider_code) == (429, "t", "c")


@pytest.mark.parametrize(
    "status", [100, 101, 204, 301, 302, 304, 401, 403, 405, 408, 418, 451, 500, 502, 503, 504, 529, 599]
)
def test_any_other_status_means_that_the_provider_is_unavailable(status: int) -> None:
    """This includes 401 and 403, which refuse the proxy's key."""
    error = error_from_response(ErrorResponse(status, BODY, 2), ATTEMPT)
    assert isinstance(error, ProviderUnavailableError)
    assert (error.retry_after_s, error.attempts, error.provider_request_id) == (2, 3, "req_1")
    assert error.provider_status == status


@pytest.mark.parametrize("status", [302, 401, 403, 408, 429, 500, 503, 529])
def test_an_error_that_does_not_concern_the_request_has_no_text_of_the_provider(status: int) -> None:
    """Neither the message nor the repr contains it."""
    error = error_from_response(ErrorResponse(status, BODY), ATTEMPT)
    assert CANARY not in repr(vars(error)) + repr(error) + str(error)
    assert CANARY not in repr(ErrorResponse(status, BODY))


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (httpx.ConnectError("x"), ProviderUnavailableError),
        (httpx.ReadError("x"), ProviderUnavailableError),
        (httpx.RemoteProtocolError("x"), ProviderUnavailableError),
        (httpx.UnsupportedProtocol("x"), ProviderUnavailableError),
        (ssl.SSLCertVerificationError("x"), ProviderUnavailableError),
        (OSError("x"), ProviderUnavailableError),
        (UnreadableResponseError(), ProviderUnavailableError),
        (httpx.ConnectTimeout("x"), ProviderTimeoutError),
        (httpx.ReadTimeout("x"), ProviderTimeoutError),
        (TimeoutError(), ProviderTimeoutError),
        (httpx.PoolTimeout("x"), OverloadedError),
    ],
)
def test_each_exception_maps_to_its_error(failure: Exception, kind: type[IbexError]) -> None:
    """The error does not contain the text of the exception."""
    assert isinstance(failure, FAILURES)
    error = error_from_exception(failure, ATTEMPT)
    assert type(error) is kind
    assert error.message == kind.default_message
    if isinstance(error, ProviderError):
        assert (error.attempts, error.provider_request_id, error.provider_status) == (3, "req_1", None)


def test_a_proxy_without_a_free_connection_sets_a_retry_delay() -> None:
    """The proxy is overloaded; the provider did not fail."""
    assert error_from_exception(httpx.PoolTimeout("x"), ATTEMPT).retry_after_s == 1


def test_a_success_without_a_completion_has_the_request_id() -> None:
    """The id lets the operator ask the provider about it."""
    error = not_a_completion(ATTEMPT)
    assert (error.attempts, error.provider_request_id) == (3, "req_1")
