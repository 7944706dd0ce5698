"""Tests of each row of the tables of errors and statuses."""

from __future__ import annotations

import pytest
from grpc import StatusCode

from ibex.adapters.grpc.statuses import (
    CallFailedError,
    Reason,
    ServiceCredentialError,
    agent_error,
    refusal_of,
    token_error,
)
from ibex.domain.errors import (
    AgentNotAuthorizedError,
    AgentSourceUnavailableError,
    AuthUnavailableError,
    FieldCode,
    FieldError,
    InsufficientPermissionsError,
    InternalError,
    InvalidTokenError,
    MissingTokenError,
    NotFoundError,
    ServiceDegradedError,
    SourceUnavailableError,
    TokenSourceUnavailableError,
    ValidationError,
)

OUTAGES = [
    (status, reason)
    for status in list(StatusCode)[1:]
    for reason in (None, "", "unheard-of", *Reason)
    if reason is not Reason.SOURCE_UNAVAILABLE or status is not StatusCode.UNAVAILABLE
]


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (InvalidTokenError(), StatusCode.UNAUTHENTICATED, Reason.INVALID_TOKEN),
        (MissingTokenError(), StatusCode.UNAUTHENTICATED, Reason.MISSING_TOKEN),
        (AgentNotAuthorizedError(), StatusCode.PERMISSION_DENIED, Reason.AGENT_NOT_AUTHORIZED),
        (InsufficientPermissionsError(), StatusCode.PERMISSION_DENIED, Reason.INSUFFICIENT_PERMISSIONS),
        (NotFoundError(), StatusCode.PERMISSION_DENIED, Reason.NOT_FOUND),
        (
            ValidationError((FieldError("f", FieldCode.REQUIRED, "is required"),)),
            StatusCode.INVALID_ARGUMENT,
            Reason.INVALID_ARGUMENT,
        ),
        (ServiceCredentialError(), StatusCode.FAILED_PRECONDITION, Reason.SERVICE_CREDENTIAL),
        (ServiceDegradedError(), StatusCode.UNAVAILABLE, Reason.SOURCE_UNAVAILABLE),
        (TokenSourceUnavailableError(), StatusCode.UNAVAILABLE, Reason.SOURCE_UNAVAILABLE),
        (AuthUnavailableError(), StatusCode.UNAVAILABLE, Reason.SOURCE_UNAVAILABLE),
        (AgentSourceUnavailableError(), StatusCode.UNAVAILABLE, Reason.SOURCE_UNAVAILABLE),
        (TimeoutError(), StatusCode.DEADLINE_EXCEEDED, Reason.DEADLINE),
        (InternalError(), StatusCode.INTERNAL, Reason.INTERNAL),
        (RuntimeError(), StatusCode.INTERNAL, Reason.INTERNAL),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_error_has_a_status_and_a_reason(error: Exception, status: StatusCode, reason: Reason) -> None:
    """Each has a message."""
    refusal = refusal_of(error)

    assert (refusal.status, refusal.reason) == (status, reason)
    assert refusal.message


@pytest.mark.parametrize(
    "error",
    [InvalidTokenError, ServiceDegradedError, AuthUnavailableError, InternalError, RuntimeError, TimeoutError],
)
def test_the_text_of_an_error_is_not_revealed(error: type[Exception]) -> None:
    """The text of an internal error, or of an error about a token, must not reach the caller."""
    assert "canary" not in refusal_of(error("canary")).message


def test_an_invalid_field_is_reported() -> None:
    """The message names the field and the expected value."""
    error = ValidationError((FieldError("name", FieldCode.REQUIRED, "is required"),))

    assert refusal_of(error).message == "name: is required"


def test_a_status_with_its_reason_is_a_domain_error() -> None:
    """Status and reason together make the domain's error."""
    for make, failed, expected in (
        (token_error, CallFailedError(StatusCode.UNAUTHENTICATED, "invalid-token"), InvalidTokenError),
        (token_error, CallFailedError(StatusCode.UNAVAILABLE, "source-unavailable"), TokenSourceUnavailableError),
        (agent_error, CallFailedError(StatusCode.PERMISSION_DENIED, "agent-not-authorized"), AgentNotAuthorizedError),
        (agent_error, CallFailedError(StatusCode.UNAVAILABLE, "source-unavailable"), AgentSourceUnavailableError),
    ):
        assert type(make(failed)) is expected


@pytest.mark.parametrize(("status", "reason"), OUTAGES)
def test_any_other_status_and_reason_is_an_outage(status: StatusCode, reason: str | None) -> None:
    """Any other pair of status and reason proves neither a refusal nor an unavailable source."""
    failed = CallFailedError(status, reason)
    token, agent = token_error(failed), agent_error(failed)

    if (status, reason) != (StatusCode.UNAUTHENTICATED, Reason.INVALID_TOKEN):
        assert type(token) is ServiceDegradedError
    if (status, reason) != (StatusCode.PERMISSION_DENIED, Reason.AGENT_NOT_AUTHORIZED):
        assert type(agent) is AuthUnavailableError
    assert not isinstance(token, SourceUnavailableError)
    assert not isinstance(agent, SourceUnavailableError)


def test_the_message_of_a_failed_call_has_its_reason_or_its_status() -> None:
    """The reason is auth's. It takes precedence over the status."""
    assert str(CallFailedError(StatusCode.UNAVAILABLE)) == "auth did not answer: UNAVAILABLE"
    assert str(CallFailedError(StatusCode.UNAVAILABLE, "source-unavailable")) == "auth answered: source-unavailable"
