"""One line a request: what is in it, and what is not."""

from __future__ import annotations

from uuid import UUID

import pytest
from structlog.testing import capture_logs

from harness.exchanges import a_refusal, an_exchange
from ibex.adapters.telemetry.access_log import write_access_line
from ibex.domain.errors import ErrorCode
from ibex.domain.exchange import Caller

CHAT = "/v1/chat/completions"


def test_a_chat_request_is_told_in_one_line() -> None:
    """Who, what, how long in milliseconds, how it came out."""
    with capture_logs() as logged:
        write_access_line("POST", CHAT, 200, 1_234_567_891, exchange=an_exchange(), caller=None)

    assert logged == [
        {
            "event": "request",
            "log_level": "info",
            "source": "ibex.access",
            "method": "POST",
            "route": CHAT,
            "status": 200,
            "duration_ms": 1_234.567,
            "org_id": UUID(int=5),
            "agent_id": UUID(int=7),
            "session_id": UUID(int=8),
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
    with capture_logs() as logged:
        write_access_line("GET", "/health", 200, 2_000_000, exchange=None, caller=None)
        write_access_line("GET", "/v1/models", 200, 1, exchange=None, caller=Caller(UUID(int=5), UUID(int=6)))

    health, models = logged
    assert set(health) == {"event", "log_level", "source", "method", "route", "status", "duration_ms"}
    assert models["org_id"] == UUID(int=5)


def test_a_refusal_says_why() -> None:
    """By its code; what was not reached is left out."""
    with capture_logs() as logged:
        refusal = a_refusal(error_code=ErrorCode.AGENT_SUSPENDED)
        write_access_line("POST", CHAT, 403, 1, exchange=refusal, caller=None)

    assert (logged[0]["status"], logged[0]["error_code"]) == (403, "AGENT_SUSPENDED")
    assert not {"model", "provider", "directive_ms", "input_tokens", "session_id"} & set(logged[0])


@pytest.mark.parametrize(("provider", "logged_model"), [("openai", "gpt-" + "x" * 60), (None, None)])
def test_a_models_name_is_bounded_and_is_one(provider: str | None, logged_model: str | None) -> None:
    """At most 64 characters; what no provider serves is whatever the client wrote, and not written down."""
    with capture_logs() as logged:
        exchange = an_exchange(model="gpt-" + "x" * 200, provider=provider)
        write_access_line("POST", CHAT, 200, 1, exchange=exchange, caller=None)

    assert logged[0].get("model") == logged_model


def test_neither_handle_nor_token_nor_hash_is_written() -> None:
    """A session's handle is the client's text; its id is ours."""
    with capture_logs() as logged:
        write_access_line("POST", CHAT, 200, 1, exchange=an_exchange(), caller=None)

    values = {str(value) for value in logged[0].values()}
    assert not {"conversation-1", str(UUID(int=6)), "a1" * 32, "b2" * 32} & values
