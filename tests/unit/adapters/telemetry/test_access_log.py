"""Tests of the fields of the access line, and of the values that it must not contain."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

import pytest

from harness.exchanges import a_refusal, an_exchange
from harness.logs import logged
from ibex.adapters.telemetry.access_log import write_access_line
from ibex.adapters.telemetry.current_request import CURRENT, CurrentRequest
from ibex.domain.errors import ErrorCode
from ibex.domain.record.exchange import Caller

CHAT = "/v1/chat/completions"


def test_a_proxied_request_has_all_fields() -> None:
    """Durations are in milliseconds."""
    with logged() as lines:
        write_access_line("POST", CHAT, 200, 1_234_567_891, exchange=an_exchange(), caller=None)

    assert datetime.fromisoformat(lines[0].pop("timestamp")).utcoffset() == timedelta(0)
    assert lines == [
        {
            "event": "request",
            "level": "info",
            "source": "ibex.access",
            "method": "POST",
            "route": CHAT,
            "status": 200,
            "duration_ms": 1_234.567,
            "org_id": str(UUID(int=5)),
            "agent_id": str(UUID(int=7)),
            "token_id": str(UUID(int=6)),
            "user_id": str(UUID(int=10)),
            "operation": "chat.completions",
            "session_id": str(UUID(int=8)),
            "model": "gpt-4o",
            "provider": "openai",
            "provider_request_id": "req_1",
            "attempts": 2,
            "streaming": True,
            "complete": True,
            "finish_reason": "stop",
            "input_tokens": 11,
            "output_tokens": 7,
            "auth_ms": 1.001,
            "rate_limit_ms": 2.002,
            "directive_ms": 3.003,
            "inject_ms": 0.004,
            "provider_ttfb_ms": 250.0,
            "overhead_ms": 6.789,
        }
    ]


def test_a_provider_that_was_not_reached_is_named() -> None:
    """The line has the host and the reason."""
    failure = "cannot connect to api.openai.com: name not resolved"
    with logged() as lines:
        write_access_line("POST", CHAT, 503, 1, exchange=an_exchange(connect_failure=failure), caller=None)

    assert lines[0]["connect_failure"] == failure


def test_a_request_without_an_exchange_has_fewer_fields() -> None:
    """The caller's ids are included if there is a caller."""
    with logged() as lines:
        write_access_line("GET", "/health", 200, 2_000_000, exchange=None, caller=None)
        write_access_line("GET", "/v1/models", 200, 1, exchange=None, caller=Caller(UUID(int=5), UUID(int=6)))

    health, models = lines
    assert set(health) == {"event", "level", "timestamp", "source", "method", "route", "status", "duration_ms"}
    assert (models["org_id"], models["token_id"]) == (str(UUID(int=5)), str(UUID(int=6)))
    assert not {"user_id", "operation"} & set(models)


def test_a_refusal_has_its_error_code() -> None:
    """Fields of stages that it did not reach are omitted."""
    with logged() as lines:
        refusal = a_refusal(error_code=ErrorCode.AGENT_SUSPENDED)
        write_access_line("POST", CHAT, 403, 1, exchange=refusal, caller=None)

    assert (lines[0]["status"], lines[0]["error_code"]) == (403, "AGENT_SUSPENDED")
    assert not {"model", "provider", "directive_ms", "input_tokens", "session_id"} & set(lines[0])


@pytest.mark.parametrize(("provider", "logged_model"), [("openai", "gpt-" + "x" * 60), (None, None)])
def test_a_model_name_is_cut_to_64_characters_and_omitted_without_a_provider(
    provider: str | None, logged_model: str | None
) -> None:
    """Without a provider, the model name is arbitrary text of the client."""
    with logged() as lines:
        exchange = an_exchange(model="gpt-" + "x" * 200, provider=provider)
        write_access_line("POST", CHAT, 200, 1, exchange=exchange, caller=None)

    assert lines[0].get("model") == logged_model


def test_session_handle_token_and_text_hash_are_not_logged() -> None:
    """The ids of a session and a token are included, but not the session's handle or the token."""
    with logged() as lines:
        write_access_line("POST", CHAT, 200, 1, exchange=an_exchange(), caller=None)

    values = {str(value) for value in lines[0].values()}
    assert not {"conversation-1", "a1" * 32, "b2" * 32} & values


def test_an_access_line_has_the_ids_of_its_request() -> None:
    """Every other log line of the request has the same ids."""
    token = CURRENT.set(CurrentRequest(UUID(int=9), "ab" * 16))
    try:
        with logged() as lines:
            write_access_line("GET", "/health", 200, 1, exchange=None, caller=None)
    finally:
        CURRENT.reset(token)

    assert (lines[0]["request_id"], lines[0]["trace_id"]) == (str(UUID(int=9)), "ab" * 16)


def test_no_access_line_is_logged_above_level_info() -> None:
    """An access line has the level info, so a higher level suppresses it."""
    with logged("warning") as lines:
        write_access_line("GET", "/health", 200, 1, exchange=None, caller=None)

    assert lines == []
