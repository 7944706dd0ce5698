"""The connections to the provider and the headers on them (docs/faults.md)."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING

import httpx
import pytest

from harness.addresses import address_info, black_hole, refusing, resolver
from harness.loopback import KEY, Loopback
from harness.openai import ScriptedOpenAI
from harness.openai_wire import (
    SSE_TYPE,
    Send,
    chunked,
    completion,
    error,
    head,
    html,
    stream_events,
    text_deltas,
)
from harness.process import IbexProcess

if TYPE_CHECKING:
    from pathlib import Path

    from harness.openai_wire import Script

pytestmark = pytest.mark.integration

PROJECT, SECRET = "proj_1", "canary-header"
SETTINGS = {"IBEX_OPENAI_HEADERS": f"OpenAI-Project: {PROJECT}\nAPI-Key: {SECRET}"}
NAMED = "http://provider.test/v1"
TRACE, CLIENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TOLD = {
    "openai-processing-ms": "412",
    "x-ratelimit-limit-requests": "10000",
    "x-ratelimit-remaining-tokens": "149984",
    "openai-organization": "the-shared-account",
}
START_TIMEOUT_S = 30


def stream_with(headers: dict[str, str]) -> Script:
    """Return a whole stream with additional headers."""
    framing = {"content-type": SSE_TYPE, "transfer-encoding": "chunked"}
    events = b"".join(stream_events(text_deltas("Hi")))
    return (Send(head(200, framing | headers) + chunked(events) + chunked(b"")),)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("first", [black_hole, refusing])
def test_the_next_address_is_tried_if_the_first_is_dead(tmp_path: Path, first: type, *, streamed: bool) -> None:
    """IBEX connects within a second, in the same attempt."""
    with ExitStack() as stack:
        provider = stack.enter_context(ScriptedOpenAI.in_thread())
        good = address_info(httpx.URL(provider.base_url).port or 0)
        dead = stack.enter_context(first())
        proxy = stack.enter_context(
            Loopback.running(provider, tmp_path, None, resolver(dead, good), OPENAI_BASE_URL=NAMED)
        )
        seen = proxy.ask(stream_with({}) if streamed else completion("well"), stream=streamed)
        exchange = proxy.record(seen.request_id)
        assert (seen.status, exchange.attempts, exchange.is_complete) == (200, 1, True)
        assert exchange.timings.total_ns < 1_000_000_000
        proxy.wait_until_idle()


def test_the_connect_timeout_covers_all_addresses(tmp_path: Path) -> None:
    """Each attempt has its own timeout."""
    limits = {"IBEX_OPENAI_CONNECT_TIMEOUT": "0.1", "OPENAI_MAX_RETRIES": "1", "OPENAI_BASE_URL": NAMED}
    with (
        ScriptedOpenAI.in_thread() as provider,
        black_hole() as silent,
        Loopback.running(provider, tmp_path, None, resolver(silent, silent), **limits) as proxy,
    ):
        seen = proxy.ask()
        assert seen.outcome == (504, "PROVIDER_TIMEOUT")
        assert proxy.record(seen.request_id).attempts == 2


def test_an_unused_forward_proxy_is_logged_at_start(tmp_path: Path) -> None:
    """The line names the variable and the fix, but not the value."""
    environ = {
        "IBEX_PORT": "0",
        "IBEX_DATABASE_URL": "postgresql://ibex_app@127.0.0.1:1/ibex",
        "IBEX_AUTH_DATABASE_URL": "postgresql://ibex_auth@127.0.0.1:1/ibex",
        "IBEX_CLICKHOUSE_URL": "http://127.0.0.1:1",
        "IBEX_TOKEN_PEPPERS": "k:AAECAwQFBgcICQoLDA0ODw==",
        "OPENAI_API_KEY": "sk-canary",
        "HTTPS_PROXY": "http://canary-user:canary-password@proxy.example:3128",
    }
    process = IbexProcess.spawn(["serve"], environ, tmp_path)
    line = process.wait_for_line("HTTPS_PROXY is set", START_TIMEOUT_S)
    process.stop(signal.SIGKILL)
    assert '"level":"warning"' in line.replace(" ", "")
    assert "api.openai.com" in line
    assert "IBEX_OPENAI_TRANSPORT=httpx" in line
    assert not any("canary" in line or "proxy.example" in line for line in process.lines)


ANSWERS: dict[str, tuple[Script, bool, int]] = {
    "buffered": (completion("Hi", TOLD), False, 200),
    "streamed": (stream_with(TOLD), True, 200),
    "refused": (error(400, "No.", TOLD), False, 400),
    "refused a stream": (error(404, "No.", TOLD), True, 404),
    "failed": (error(500, "No.", {**TOLD, "x-should-retry": "false"}), False, 503),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_only_the_processing_time_header_is_forwarded(proxy: Loopback, name: str) -> None:
    """IBEX forwards neither the quotas nor the name of the shared account."""
    script, streamed, status = ANSWERS[name]
    seen = proxy.ask(script, stream=streamed)
    assert (seen.status, seen.headers["openai-processing-ms"]) == (status, "412")
    assert not [one for one in seen.headers if one.startswith("x-ratelimit")]
    assert "the-shared-account" not in str(seen.headers)


def test_an_invalid_response_keeps_the_processing_time(proxy: Loopback) -> None:
    """The provider has answered, so its processing time is known."""
    (send,) = html()
    assert isinstance(send, Send)
    told = send.data.replace(b"\r\n\r\n", b"\r\nopenai-processing-ms: 7\r\n\r\n", 1)
    seen = proxy.ask((Send(told),))
    assert (seen.outcome, seen.headers["openai-processing-ms"]) == ((503, "PROVIDER_UNAVAILABLE"), "7")


@pytest.mark.parametrize("value", ["", "12.5", "-1", "1e3", "9" * 10, "12 ms", "12, 12", "\xb2"])
def test_an_invalid_processing_time_is_removed(proxy: Loopback, value: str) -> None:
    """The rest of the response reaches the client."""
    seen = proxy.ask(completion("Hi", {"openai-processing-ms": value}))
    assert seen.status == 200
    assert "openai-processing-ms" not in seen.headers


def test_the_operators_headers_reach_the_provider(proxy: Loopback) -> None:
    """Every attempt has them in addition to the key. The client does not see them."""
    seen = proxy.ask(error(503), completion("Hi"))
    assert len(proxy.provider.requests) == 2
    for request in proxy.provider.requests:
        assert (request.header("openai-project"), request.header("api-key")) == (PROJECT, SECRET)
        assert request.header("authorization") == f"Bearer {KEY}"
    assert SECRET not in f"{seen.headers} {seen.body!r}"


@pytest.mark.parametrize("setting", ["host: elsewhere", "Content-Length: 0", "transfer-encoding: chunked", "a b: c"])
def test_a_header_that_would_break_requests_is_refused_at_start(tmp_path: Path, setting: str) -> None:
    """IBEX prints one line without any value, and exits with code 2."""
    environ = {"IBEX_OPENAI_HEADERS": f"api-key: {SECRET};{setting}"}
    process = IbexProcess.spawn(["serve"], environ, tmp_path)
    assert process.wait() == 2
    assert process.lines[0].startswith("ibex: IBEX_OPENAI_HEADERS is (a secret, not shown); ")
    assert SECRET not in "".join(process.lines)
    assert len(process.lines) == 2


def test_the_provider_gets_the_trace_context_of_the_client(proxy: Loopback) -> None:
    """Each attempt has the client's trace id and flags, and a span id derived from the exchange."""
    proxy.provider.put(error(503), completion("Hi"))
    with proxy.client() as client:
        client.send(proxy.chat(None, f"traceparent: 00-{TRACE}-{CLIENT}-01"))
        seen = client.response()
    exchange = proxy.record(seen.request_id)
    expected = f"00-{TRACE}-{exchange.id.hex[16:]}-01"
    assert [request.header("traceparent") for request in proxy.provider.requests] == [expected] * 2
    assert seen.headers["x-trace-id"] == TRACE


def test_the_provider_gets_a_new_trace_context_without_one_of_the_client(proxy: Loopback) -> None:
    """The trace is not sampled, because IBEX does not export it."""
    seen = proxy.ask(completion("Hi"))
    exchange = proxy.record(seen.request_id)
    (request,) = proxy.provider.requests
    assert request.header("traceparent") == f"00-{seen.headers['x-trace-id']}-{exchange.id.hex[16:]}-00"
