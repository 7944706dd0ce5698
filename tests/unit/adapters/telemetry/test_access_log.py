"""One line a request: what is in it, and what is not."""

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


def test_a_chat_request_is_told_in_one_line() -> None:
    """Who, what, how long in milliseconds, how it came out."""
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


def test_another_request_is_told_without_an_exchange() -> None:
    """With its caller, where it had one."""
    with logged() as lines:
        write_access_line("GET", "/health", 200, 2_000_000, exchange=None, caller=None)
        write_access_line("GET", "/v1/models", 200, 1, exchange=None, caller=Caller(UUID(int=5), UUID(int=6)))

    health, models = lines
    assert set(health) == {"event", "level", "timestamp", "source", "method", "route", "status", "duration_ms"}
    assert (models["org_id"], models["token_id"]) == (str(UUID(int=5)), str(UUID(int=6)))
    assert not {"user_id", "operation"} & set(models)


def test_a_refusal_says_why() -> None:
    """By its code; what was not reached is left out."""
    with logged() as lines:
        refusal = a_refusal(error_code=ErrorCode.AGENT_SUSPENDED)
        write_access_line("POST", CHAT, 403, 1, exchange=refusal, caller=None)

    assert (lines[0]["status"], lines[0]["error_code"]) == (403, "AGENT_SUSPENDED")
    assert not {"model", "provider", "directive_ms", "input_tokens", "session_id"} & set(lines[0])


@pytest.mark.parametrize(("provider", "logged_model"), [("openai", "gpt-" + "x" * 60), (None, None)])
def test_a_models_name_is_bounded_and_is_one(provider: str | None, logged_model: str | None) -> None:
    """At most 64 characters; what no provider serves is whatever the client wrote, and not written down."""
    with logged() as lines:
        exchange = an_exchange(model="gpt-" + "x" * 200, provider=provider)
        write_access_line("POST", CHAT, 200, 1, exchange=exchange, caller=None)

    assert lines[0].get("model") == logged_model


def test_neither_handle_nor_token_nor_hash_is_written() -> None:
    """A session's handle is the client's text, its id is ours; so is a token's id, which is not the token."""
    with logged() as lines:
        write_access_line("POST", CHAT, 200, 1, exchange=an_exchange(), caller=None)

    values = {str(value) for value in lines[0].values()}
    assert not {"conversation-1", "a1" * 32, "b2" * 32} & values


def test_a_line_has_the_ids_of_its_request() -> None:
    """As every other line of it."""
    token = CURRENT.set(CurrentRequest(UUID(int=9), "ab" * 16))
    try:
        with logged() as lines:
            write_access_line("GET", "/health", 200, 1, exchange=None, caller=None)
    finally:
        CURRENT.reset(token)

    assert (lines[0]["request_id"], lines[0]["trace_id"]) == (str(UUID(int=9)), "ab" * 16)


def test_above_its_level_there_is_no_line() -> None:
    """It is of level info; there is none either before anybody has said where to."""
    with logged("warning") as lines:
        write_access_line("GET", "/health", 200, 1, exchange=None, caller=None)

    assert lines == []
