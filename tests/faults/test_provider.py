"""The provider fails before the client has received any of its response (docs/faults.md): always an envelope.

Each request goes from a client's socket through the whole proxy to a scripted provider. The same process serves the
next request, and every request is recorded once.
"""

from __future__ import annotations

import ssl
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from harness.loopback import KEY, Loopback
from harness.openai import ScriptedOpenAI
from harness.openai_wire import (
    JSON_TYPE,
    REQUEST_ID,
    Close,
    Reset,
    Rest,
    Send,
    Silent,
    answer,
    broken_chunk,
    chunked,
    completion,
    completion_body,
    connection_close,
    cut_in_body,
    error,
    gzipped,
    head,
    html,
    http_1_0,
    informational_first,
    length_too_long,
    length_too_short,
    no_content,
    open_stream,
    redirect,
    stream,
    stream_events,
    text_deltas,
    text_stream,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from harness.openai_wire import Script
    from harness.raw_http import Seen

pytestmark = pytest.mark.integration

UNAVAILABLE = (503, "PROVIDER_UNAVAILABLE")
TIMEOUT = (504, "PROVIDER_TIMEOUT")
GZIPPED = {"content-type": JSON_TYPE, "transfer-encoding": "gzip, chunked"}
BEGUN = {"content-type": JSON_TYPE, "content-length": "100"}
PATIENCE_S = 1.0
LIMITS = {
    "IBEX_OPENAI_FIRST_BYTE_TIMEOUT": str(PATIENCE_S),
    "IBEX_OPENAI_IDLE_TIMEOUT": str(PATIENCE_S),
    "OPENAI_REQUEST_TIMEOUT": str(3 * PATIENCE_S),
}
EVENTS = stream_events(text_deltas("slow"))


def assert_failed(
    proxy: Loopback, seen: Seen, outcome: tuple[int, str], attempts: int, *, code: str | None = None
) -> None:
    """Assert the client's response and the record. ``code`` is the provider's.

    After retries, the response tells the client not to retry.
    """
    assert (seen.status, seen.error["code"]) == (outcome[0], code or outcome[1])
    assert seen.error.get("ibex_code") == (outcome[1] if code else None)
    assert seen.headers["x-ibex-error-source"] == "provider"
    assert seen.headers.get("x-should-retry") == ("false" if attempts > 1 else None)
    exchange = proxy.record(seen.request_id)
    assert (exchange.status, exchange.error_code) == outcome
    assert (exchange.attempts, exchange.reached_provider, exchange.is_complete) == (attempts, True, False)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("status", "outcome", "attempts"),
    [
        (400, (400, "INVALID_REQUEST"), 1),
        (401, UNAVAILABLE, 1),
        (402, (402, "INVALID_REQUEST"), 1),
        (403, UNAVAILABLE, 1),
        (404, (404, "INVALID_REQUEST"), 1),
        (408, UNAVAILABLE, 4),
        (409, (409, "INVALID_REQUEST"), 4),
        (413, (413, "INVALID_REQUEST"), 1),
        (418, UNAVAILABLE, 1),
        (422, (422, "INVALID_REQUEST"), 1),
        (429, (429, "RATE_LIMITED"), 4),
        (500, UNAVAILABLE, 4),
        (502, UNAVAILABLE, 4),
        (503, UNAVAILABLE, 4),
        (504, UNAVAILABLE, 4),
        (520, UNAVAILABLE, 4),
        (529, UNAVAILABLE, 4),
    ],
)
def test_each_status_of_the_provider_is_mapped(
    proxy: Loopback, status: int, outcome: tuple[int, str], attempts: int, *, streamed: bool
) -> None:
    """The provider's message reaches the client only if it concerns the client's request."""
    seen = proxy.ask(*[error(status, "canary-words", code="a_code")] * attempts, stream=streamed)
    assert_failed(proxy, seen, outcome, attempts, code=None if outcome == UNAVAILABLE else "a_code")
    assert (b"canary-words" in seen.body) is (outcome[1] == "INVALID_REQUEST")
    assert seen.headers["x-ibex-provider-request-id"] == REQUEST_ID
    assert len(proxy.provider.requests) == attempts


@pytest.mark.parametrize(("asked", "told", "attempts"), [("120", "120", 1), ("0", "1", 4), ("soon", None, 4)])
def test_a_rate_limit_of_the_provider_returns_retry_after(
    proxy: Loopback, asked: str, told: str | None, attempts: int
) -> None:
    """The value is the provider's, at least one second. IBEX does not retry if the delay is too long."""
    seen = proxy.ask(*[error(429, headers={"retry-after": asked})] * attempts)
    assert_failed(proxy, seen, (429, "RATE_LIMITED"), attempts)
    assert seen.headers.get("retry-after") == told


def test_a_403_for_a_model_reaches_the_client(proxy: Loopback) -> None:
    """The provider refuses the request, not the proxy's key."""
    seen = proxy.ask(error(403, "canary-words", code="model_not_found"))
    assert_failed(proxy, seen, (403, "INVALID_REQUEST"), 1, code="model_not_found")
    assert seen.error["message"] == "canary-words"


@pytest.mark.parametrize("fields", [{"code": "insufficient_quota"}, {"kind": "insufficient_quota"}])
def test_an_exhausted_quota_is_not_retried(proxy: Loopback, fields: dict[str, Any]) -> None:
    """SDKs do not retry it either. The provider's message names the account and is hidden."""
    seen = proxy.ask(error(429, "canary-words", **fields))
    assert seen.status == 429
    assert seen.error[next(iter(fields)).replace("kind", "type")] == "insufficient_quota"
    assert (seen.headers["x-should-retry"], b"canary-words" in seen.body) == ("false", False)
    assert (proxy.record(seen.request_id).error_code, len(proxy.provider.requests)) == ("RATE_LIMITED", 1)


def test_a_context_that_is_too_long_returns_the_code_of_the_provider(proxy: Loopback) -> None:
    """Clients check this code, and SDKs show the message."""
    said = error(400, "too long", code="context_length_exceeded", param="messages")
    told = proxy.ask(said).error
    assert (told["message"], told["code"], told["param"]) == (
        "too long",
        "context_length_exceeded",
        "messages",
    )


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("script", [(Close(),), (Reset(),)])
def test_a_connection_that_closes_before_the_response_is_retried(
    proxy: Loopback, script: Script, *, streamed: bool
) -> None:
    """A kept connection that has closed is not the provider's failure and not counted as a retry."""
    proxy.assert_healthy()
    seen = proxy.ask(*[script] * 5, stream=streamed)
    assert_failed(proxy, seen, UNAVAILABLE, 5)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    "script", [(Send(b"no http\r\n\r\n"), Close()), (Send(head(101)),), (Send(head(200, GZIPPED)),)]
)
def test_a_response_of_invalid_http_is_retried(proxy: Loopback, script: Script, *, streamed: bool) -> None:
    """IBEX treats it like a closed connection because no body byte has arrived."""
    seen = proxy.ask(*[script] * 4, stream=streamed)
    assert_failed(proxy, seen, UNAVAILABLE, 4)


def test_a_temporary_failure_is_retried_until_it_succeeds(proxy: Loopback) -> None:
    """The client gets the completion, and the record has the number of attempts."""
    seen = proxy.ask(error(503), (Close(),), (Reset(),), completion("well"))
    assert (seen.status, seen.body) == (200, completion_body("well"))
    exchange = proxy.record(seen.request_id)
    assert (exchange.status, exchange.attempts, exchange.is_complete) == (200, 4, True)


def test_a_closed_kept_connection_is_replaced(proxy: Loopback) -> None:
    """The next request uses another connection."""
    proxy.assert_healthy()
    proxy.provider.see(proxy.provider.cut())
    seen = proxy.ask(completion("well"))
    assert (seen.status, proxy.record(seen.request_id).is_complete) == (200, True)


BROKEN: list[Script] = [
    cut_in_body("cut"),
    length_too_long("long"),
    length_too_short("short"),
    broken_chunk(),
    html(),
    no_content(),
    redirect("http://127.0.0.1:1/elsewhere"),
    (Send(head(200, BEGUN)), Reset()),
    (Send(head(200, BEGUN) + b"{"), Reset()),
    (Send(head(200, {"content-type": JSON_TYPE}, version="1.0") + b'{"cut'), Close()),
    (Send(head(200, {"content-type": JSON_TYPE, "transfer-encoding": "chunked"}) + chunked(b'{"cut":')), Close()),
    answer(200, b"{}", JSON_TYPE, {"content-encoding": "zstd"}),
    answer(200, b"\x1f\x8bbroken", JSON_TYPE, {"content-encoding": "gzip"}),
    answer(200, b'{"error":{"message":"canary-words"}}', JSON_TYPE),
    answer(200, b"{\xff}", JSON_TYPE),
    answer(200, b'{"a":' * 100_000 + b"}", JSON_TYPE),
    stream(*EVENTS),
]


@pytest.mark.parametrize("script", BROKEN)
def test_a_broken_response_is_not_retried(proxy: Loopback, script: Script) -> None:
    """The client gets an envelope without any of the response.

    IBEX does not retry because the provider has answered.
    """
    seen = proxy.ask(script)
    assert_failed(proxy, seen, UNAVAILABLE, 1)
    assert b"canary-words" not in seen.body


@pytest.mark.parametrize("script", [http_1_0, informational_first, connection_close, gzipped])
def test_an_unusual_but_valid_response_is_forwarded(proxy: Loopback, script: Callable[[str], Script]) -> None:
    """The client gets it byte for byte, and the record has its usage."""
    seen = proxy.ask(script("well"))
    assert (seen.status, seen.body) == (200, completion_body("well"))
    exchange = proxy.record(seen.request_id)
    assert (exchange.is_complete, exchange.summary.usage.output_tokens) == (True, 2)


@pytest.mark.parametrize("script", [html(), no_content(), completion("json"), redirect("/elsewhere")])
def test_a_response_that_is_not_a_stream_gets_503(proxy: Loopback, script: Script) -> None:
    """IBEX has not sent a response head yet, so it can send an envelope."""
    seen = proxy.ask(script, stream=True)
    assert seen.outcome == UNAVAILABLE
    assert proxy.record(seen.request_id).status == 503


def _slow(*pieces: bytes) -> Script:
    return tuple(step for piece in pieces for step in (Send(piece), Rest(PATIENCE_S / 2)))


SILENT: dict[str, tuple[Script, bool]] = {
    "buffered, before the headers": ((Silent(),), False),
    "buffered, after the headers": ((Send(head(200, BEGUN)), Silent()), False),
    "buffered, after the first byte": ((Send(head(200, BEGUN) + b"{"), Silent()), False),
    "buffered, a byte now and then": (_slow(head(200, BEGUN), *[b"{"] * 90), False),
    "an error that does not end": ((Send(head(400, BEGUN) + b"{"), Silent()), False),
    "streamed, before the headers": ((Silent(),), True),
    "streamed, after the headers": ((*open_stream(), Silent()), True),
    "streamed, after the first event": ((*open_stream(EVENTS[0]), Silent()), True),
}


@pytest.fixture(scope="module")
def silences(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Loopback, dict[str, Seen]]]:
    """The responses to all scripts of a silent provider, run at the same time."""
    folder = tmp_path_factory.mktemp("silent")
    with (
        ScriptedOpenAI.in_thread() as provider,
        Loopback.running(provider, folder, **LIMITS) as proxy,
        ThreadPoolExecutor(len(SILENT)) as threads,
    ):
        asked = {}
        for number, (name, (script, streamed)) in enumerate(SILENT.items(), 1):
            asked[name] = threads.submit(proxy.ask, script, stream=streamed)
            provider.see(provider.request(number))  # so that each request gets its own script
        seen = {name: future.result() for name, future in asked.items()}
        for request in provider.requests:
            provider.see(request.closed_at())
        yield proxy, seen


@pytest.mark.parametrize("name", SILENT)
def test_a_silent_provider_times_out(silences: tuple[Loopback, dict[str, Seen]], name: str) -> None:
    """The client gets an envelope, or the last event of a stream. IBEX does not retry, and closes the connection."""
    proxy, all_seen = silences
    seen = all_seen[name]
    exchange = proxy.record(seen.request_id)
    if name == "an error that does not end":  # the status determines the error
        assert seen.outcome == (400, "INVALID_REQUEST")
    elif seen.status == 200:
        assert name.startswith("streamed, a")
        assert seen.last_event["code"] == "PROVIDER_TIMEOUT"
        assert (exchange.status, exchange.error_code) == TIMEOUT
    else:
        assert_failed(proxy, seen, TIMEOUT, 1)


def test_a_slow_stream_is_not_cut(silences: tuple[Loopback, dict[str, Seen]]) -> None:
    """It may take longer than ``OPENAI_REQUEST_TIMEOUT``, which limits buffered responses only."""
    proxy, _ = silences
    pieces = [chunked(b":\n\n")] * 7 + [chunked(b"".join(EVENTS)), chunked(b"")]
    seen = proxy.ask((*open_stream(), *_slow(*pieces)), stream=True)
    assert seen.status == 200
    assert seen.body.endswith(EVENTS[-1])
    assert proxy.record(seen.request_id).is_complete


@pytest.mark.parametrize("streamed", [False, True])
def test_the_request_after_a_timeout_is_served(silences: tuple[Loopback, dict[str, Seen]], *, streamed: bool) -> None:
    """The same process serves it."""
    proxy, _ = silences
    assert proxy.ask(text_stream("well") if streamed else completion("well"), stream=streamed).status == 200
    proxy.wait_until_idle()


@pytest.mark.parametrize("who", ["refuses", "has no address", "speaks no TLS", "has a certificate of its own making"])
def test_an_unreachable_provider_returns_503_after_all_retries(tmp_path: Path, who: str) -> None:
    """IBEX does not send the key. It reaches the provider later without a restart."""
    with ScriptedOpenAI.in_thread() as provider:
        port = int(provider.base_url.rpartition(":")[2].removesuffix("/v1"))
        address = provider.base_url
        if who == "refuses":
            provider.see(provider.stop())
        elif who == "has no address":  # too long for a resolver to query a server
            address = f"http://{'.'.join(['a' * 60] * 5)}/v1"
        elif who == "speaks no TLS":
            address = address.replace("http://", "https://")
        else:
            provider.see(provider.stop())
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
            provider.see(provider.start(port, context))
            address = provider.base_url
        with Loopback.running(provider, tmp_path, OPENAI_BASE_URL=address) as proxy:
            for streamed in (False, True):
                seen = proxy.ask(stream=streamed)
                assert_failed(proxy, seen, UNAVAILABLE, 4)
                assert KEY.encode() not in seen.body
            assert provider.requests == []
            if who == "refuses":
                provider.see(provider.start(port))
                proxy.assert_healthy()
