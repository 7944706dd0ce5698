"""Tests of the response headers that describe an exchange."""

from __future__ import annotations

from datetime import timedelta

import pytest

from harness.chat_scene import DIRECTIVE, REQUEST_ID, TRACE_ID
from harness.memory.clock import ManualClock
from ibex.adapters.http_server.cors import EXPOSED
from ibex.adapters.http_server.exchange_headers import exchange_headers
from ibex.domain.identity.rate_limits import decide
from ibex.domain.record.exchange import SessionRef, Stage
from ibex.domain.record.in_flight import InFlightExchange


def new_exchange() -> tuple[InFlightExchange, ManualClock]:
    """Return a new exchange and its clock."""
    clock = ManualClock()
    return InFlightExchange.begin(clock, REQUEST_ID, TRACE_ID), clock


def headers(in_flight: InFlightExchange | None) -> dict[str, str]:
    """Return the headers as strings."""
    return {name.decode(): value.decode() for name, value in exchange_headers(in_flight)}


def test_a_new_exchange_has_no_headers() -> None:
    """A request without an exchange has none either."""
    assert headers(new_exchange()[0]) == headers(None) == {}


def test_a_complete_exchange_has_all_headers() -> None:
    """They are session, directive, limit, provider request id, and the stages in milliseconds. Pages may read them."""
    in_flight, clock = new_exchange()
    in_flight.session = SessionRef(REQUEST_ID, "conversation-1")
    in_flight.directive = DIRECTIVE
    in_flight.rate_limit = decide(count=3, limit=10, now=clock.now())
    in_flight.provider_request_id = "req_1"
    in_flight.auth_stale = True
    in_flight.processing_ms = 412
    for stage, microseconds in ((Stage.AUTHENTICATE, 120), (Stage.INJECT, 7)):
        in_flight.enter(stage)
        clock.advance(timedelta(microseconds=microseconds))
    in_flight.enter(None)
    in_flight.provider_asked("openai")
    clock.advance(timedelta(milliseconds=250))
    in_flight.provider_ended()

    assert headers(in_flight) == {
        "x-ibex-session-id": "conversation-1",
        "x-ibex-directive": DIRECTIVE.receipt,
        "x-ratelimit-limit": "10",
        "x-ratelimit-remaining": "7",
        "x-ratelimit-reset": str(int(clock.now().timestamp()) // 60 * 60 + 60),
        "x-ibex-auth-cached": "true",
        "x-ibex-provider-request-id": "req_1",
        "openai-processing-ms": "412",
        "server-timing": "auth;dur=0.120, inject;dur=0.007, provider;dur=250.000",
    }
    assert headers(in_flight).keys() <= {name.lower() for name in EXPOSED}


def test_a_provider_stage_that_has_not_ended_counts_up_to_now() -> None:
    """For a stream, it is the time to the provider's head."""
    in_flight, clock = new_exchange()
    in_flight.provider_asked("openai")
    clock.advance(timedelta(milliseconds=80))

    assert headers(in_flight)["server-timing"] == "provider;dur=80.000"


def test_without_a_limit_there_are_no_limit_headers() -> None:
    """Unlimited organizations get no rate limit headers."""
    in_flight, clock = new_exchange()
    in_flight.rate_limit = decide(count=3, limit=0, now=clock.now())

    assert headers(in_flight) == {}


@pytest.mark.parametrize("value", ["", "a\r\nset-cookie: b", "ü", "a b", "x" * 257])
def test_an_invalid_provider_request_id_is_omitted(value: str) -> None:
    """It must consist of visible ASCII characters."""
    in_flight, _ = new_exchange()
    in_flight.provider_request_id = value

    assert headers(in_flight) == {}
