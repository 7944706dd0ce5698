"""Tests of the chat route: responses to valid and invalid requests, and disconnects."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.chat_scene import AGENT, BEARER, DIRECTIVE, ORG, OTHER_ORG, event
from harness.http_scene import (
    CHAT,
    COMPLETION,
    HEADERS,
    REQUEST,
    STREAM_REQUEST,
    AsgiCall,
    HeldProvider,
    HeldStream,
    HttpScene,
    call,
    chat_scope,
    scripted_stream,
)
from ibex.adapters.http_server.client_connection import Limits
from ibex.domain.errors import ErrorCode, InvalidTokenError, ServiceDegradedError
from ibex.domain.provider_errors import (
    ProviderRefusal,
    ProviderRefusedError,
    ProviderTimeoutError,
    ProviderUnavailableError,
)
from ibex.domain.proxying.provider import ProviderBody

HEL = event(b'{"choices":[{"index":0,"delta":{"content":"Hel"},"finish_reason":null}]}')
STOP = event(b'{"choices":[{"index":0,"delta":{"content":"lo"},"finish_reason":"stop"}]}')
DONE = event(b"[DONE]")


def begin(scene: HttpScene, body: bytes = REQUEST) -> tuple[AsgiCall, asyncio.Task[None]]:
    """Send a chat request and return it as the server sees it, with its task."""
    exchange = AsgiCall((body,))
    return exchange, asyncio.create_task(exchange.run(scene.app(), chat_scope()))


async def test_a_completion_is_passed_on_byte_for_byte() -> None:
    """This includes the provider's white space. The response has the headers of the exchange."""
    response = await HttpScene(ProviderBody(COMPLETION, attempts=1, provider_request_id="req_7")).post()

    assert (response.status, response.body) == (200, COMPLETION)
    assert response.headers["content-type"] == "application/json"
    assert response.headers["content-length"] == str(len(COMPLETION))
    assert response.headers["x-ibex-directive"] == DIRECTIVE.receipt
    assert response.headers["x-ibex-provider-request-id"] == "req_7"
    assert response.headers["x-ratelimit-limit"] == "600"
    stages = [stage.partition(";")[0] for stage in response.headers["server-timing"].split(", ")]
    assert stages == ["auth", "rate_limit", "directive", "inject", "provider"]


async def test_the_provider_gets_the_directive_and_the_clients_messages() -> None:
    """The body is that of the client, with the directive injected."""
    scene = HttpScene()

    await scene.post(b'{"model":"gpt-4o", "messages" : [{"role":"user","content":"Hi \\u00e4"}],"x":1.00}')

    (asked,) = scene.chat.provider.asked
    assert b'{"role":"user","content":"Hi \\u00e4"}' in asked.body
    assert b'"x":1.00' in asked.body
    assert json.loads(asked.body)["messages"][0]["role"] == "system"


@pytest.mark.parametrize(
    ("parent", "sampled", "flags"),
    [
        (None, False, 0),
        (None, True, 1),
        ("b7ad6b7169203331-00", True, 0),
        ("b7ad6b7169203331-01", False, 1),
        ("b7ad6b7169203331-03", False, 3),
        ("b7ad6b7169203331-ff", False, 3),
    ],
)
async def test_the_provider_gets_the_flags_of_the_trace(parent: str | None, *, sampled: bool, flags: int) -> None:
    """They are the client's known flags or, without a client's trace, IBEX's sampling decision."""
    scene = HttpScene()
    scene.observer.sampled = sampled
    trace_id = "0af7651916cd43dd8448eb211c80319c"

    await scene.post(headers={} if parent is None else {"traceparent": f"00-{trace_id}-{parent}"})

    (asked,) = scene.chat.provider.asked
    assert asked.trace is not None
    assert asked.trace.flags == flags
    assert (asked.trace.trace_id == trace_id) is (parent is not None)


async def test_without_a_directive_the_provider_gets_the_clients_bytes() -> None:
    """The body is unchanged."""
    scene = HttpScene()
    scene.chat.directives.answer = None
    body = b' { "messages":[{"role":"user"}] ,"model":"gpt-4o","a":1,"a":2 } '

    response = await scene.post(body)

    assert scene.chat.provider.asked[0].body == body
    assert "x-ibex-directive" not in response.headers


async def test_the_session_is_the_clients_or_a_new_one() -> None:
    """The response has the session's handle. A request header ends the session."""
    named, unnamed, empty = HttpScene(), HttpScene(), HttpScene()

    first = await named.post(headers={"x-ibex-session-id": "conversation-9", "x-ibex-session-end": "True"})
    second = await unnamed.post()
    third = await empty.post(headers={"x-ibex-session-id": ""})

    assert first.headers["x-ibex-session-id"] == "conversation-9"
    assert named.chat.exchange.session is not None
    assert named.chat.exchange.session.ends
    assert unnamed.chat.exchange.session is not None
    assert second.headers["x-ibex-session-id"] == unnamed.chat.exchange.session.handle
    assert not unnamed.chat.exchange.session.ends
    assert third.status == 200
    assert third.headers["x-ibex-session-id"]


async def test_an_organizations_path_refuses_tokens_of_other_organizations() -> None:
    """The request gets 403 before its body is read."""
    own, foreign = HttpScene(), HttpScene()

    assert (await own.post(path=f"/v1/orgs/{ORG}/chat/completions")).status == 200
    refused = await foreign.post(b"{", path=f"/v1/orgs/{OTHER_ORG}/chat/completions")

    assert (refused.status, refused.error["code"]) == (403, "INSUFFICIENT_PERMISSIONS")


async def test_the_body_of_a_request_that_is_not_admitted_is_not_read() -> None:
    """Authentication comes first, also if the body is invalid."""
    scene = HttpScene()
    scene.chat.tokens.answer = InvalidTokenError()
    exchange = AsgiCall((b"not json",))

    await exchange.run(scene.app(), chat_scope())

    assert exchange.given == 0
    assert (exchange.response().status, exchange.response().error["code"]) == (401, "INVALID_TOKEN")


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"authorization": None}, 401, "MISSING_TOKEN"),
        ({"authorization": "Bearer "}, 401, "MISSING_TOKEN"),
        ({"authorization": f"{BEARER}, {BEARER}"}, 401, "INVALID_TOKEN"),
        ({"authorization": "Bearer \xff"}, 401, "INVALID_TOKEN"),
        ({"x-ibex-agent-id": None}, 400, "MISSING_AGENT_ID"),
        ({"x-ibex-agent-id": "x"}, 400, "VALIDATION_ERROR"),
        ({"x-ibex-agent-id": f"{AGENT}, {AGENT}"}, 400, "VALIDATION_ERROR"),
        ({"content-type": None}, 415, "UNSUPPORTED_MEDIA_TYPE"),
        ({"content-type": "text/plain"}, 415, "UNSUPPORTED_MEDIA_TYPE"),
        ({"content-type": "application/vnd.api+json"}, 415, "UNSUPPORTED_MEDIA_TYPE"),
        ({"content-encoding": "gzip"}, 415, "UNSUPPORTED_MEDIA_TYPE"),
        ({"x-ibex-session-end": "perhaps"}, 400, "VALIDATION_ERROR"),
        ({"x-ibex-session-id": "a b"}, 400, "VALIDATION_ERROR"),
        ({"x-ibex-session-id": "a, a"}, 400, "VALIDATION_ERROR"),
    ],
)
async def test_invalid_headers_are_refused(headers: dict[str, str | None], status: int, code: str) -> None:
    """Each has its own error."""
    response = await HttpScene().post(headers=headers)

    assert (response.status, response.error["code"]) == (status, code)


@pytest.mark.parametrize(
    "content_type", ["application/json", "Application/JSON; charset=utf-8", "application/json ;a=b"]
)
async def test_json_may_be_declared_with_parameters(content_type: str) -> None:
    """The media type may be in any case, with or without a charset."""
    assert (await HttpScene().post(headers={"content-type": content_type})).status == 200


async def test_invalid_headers_and_fields_are_reported_together() -> None:
    """One error lists all of them."""
    response = await HttpScene().post(
        b'{"messages":[],"stream":7}', headers={"x-ibex-session-id": "a b", "x-ibex-session-end": "perhaps"}
    )

    assert [e["field"] for e in response.error["field_errors"]] == [
        "X-IBEX-Session-ID",
        "X-IBEX-Session-End",
        "model",
        "messages",
        "stream",
    ]


async def test_a_body_in_several_parts_is_joined() -> None:
    """The parts are joined in order. Empty parts are allowed."""
    parts = [REQUEST[:7], b"", REQUEST[7:20], REQUEST[20:]]

    assert (await HttpScene().post(parts)).status == 200


async def test_a_body_with_too_large_a_declared_length_is_not_read() -> None:
    """The declared length is enough to refuse it."""
    scene = HttpScene()
    scene.limits = Limits(max_request_body_bytes=100)
    exchange = AsgiCall((b"x" * 101,))

    await exchange.run(scene.app(), chat_scope((b"content-length", b"101")))

    assert exchange.given == 0
    assert (exchange.response().status, exchange.response().error["code"]) == (413, "PAYLOAD_TOO_LARGE")


async def test_a_body_that_turns_out_too_large_is_not_read_to_its_end() -> None:
    """It is counted as it arrives, for any declared length. A body of exactly the limit is allowed."""
    scene = HttpScene()
    scene.limits = Limits(max_request_body_bytes=len(REQUEST))

    too_large = await scene.post([REQUEST, b" ", b" ", b" "])
    fits = await scene.post([REQUEST[:9], REQUEST[9:]])

    assert (too_large.status, too_large.error["code"]) == (413, "PAYLOAD_TOO_LARGE")
    assert fits.status == 200


async def test_an_error_response_has_the_headers_of_the_exchange() -> None:
    """Errors too have the session, the rate limit, the timings and the provider's request id."""
    error = ProviderUnavailableError(provider_request_id="req_9", attempts=4, processing_ms=8)

    response = await HttpScene(error).post(headers={"x-ibex-session-id": "s"})

    assert (response.status, response.error["code"]) == (503, "PROVIDER_UNAVAILABLE")
    assert response.headers["x-ibex-session-id"] == "s"
    assert response.headers["x-ibex-provider-request-id"] == "req_9"
    assert response.headers["openai-processing-ms"] == "8"
    assert response.headers["x-ratelimit-remaining"] == "599"
    assert response.headers["x-should-retry"] == "false"
    assert "provider;dur=" in response.headers["server-timing"]


@pytest.mark.parametrize(
    ("refusal", "status"), list(zip(ProviderRefusal, (400, 402, 403, 404, 409, 413, 422), strict=True))
)
async def test_a_providers_refusal_keeps_its_status(refusal: ProviderRefusal, status: int) -> None:
    """The exchange is recorded with the same status."""
    scene = HttpScene(ProviderRefusedError(refusal, detail="No."))

    assert (await scene.post()).status == status
    assert scene.chat.exchange.status == status


async def test_the_rate_limit_sets_retry_after() -> None:
    """The request beyond the limit gets 429 with whole seconds, and is not sent to the provider."""
    scene = HttpScene()
    app = scene.app()
    responses = [await call(app, "POST", CHAT, HEADERS, REQUEST) for _ in range(601)]

    last = responses[-1]
    assert {r.status for r in responses[:-1]} == {200}
    assert (last.status, last.error["code"]) == (429, "RATE_LIMITED")
    assert 0 < int(last.headers["retry-after"]) <= 60
    assert last.headers["x-ratelimit-remaining"] == "0"
    assert len(scene.chat.provider.asked) == 600


async def test_a_stream_is_passed_on_read_by_read() -> None:
    """Each read is sent at once and unchanged. The head is that of an event stream."""
    response = await HttpScene(scripted_stream([HEL], [STOP], [DONE])).post(STREAM_REQUEST)

    assert response.status == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache, no-transform"
    assert response.headers["x-accel-buffering"] == "no"
    assert "content-length" not in response.headers
    assert response.headers["x-ibex-provider-request-id"] == "req_stream"
    assert response.chunks == (HEL.raw, STOP.raw, DONE.raw, b"")


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (ProviderTimeoutError(), "PROVIDER_TIMEOUT"),
        (ProviderUnavailableError(), "PROVIDER_UNAVAILABLE"),
        (RuntimeError("canary"), "INTERNAL_ERROR"),
    ],
)
async def test_a_stream_that_fails_ends_with_one_error_event(failure: Exception, code: str) -> None:
    """The data that arrived is sent, then the envelope as an event, and no ``[DONE]``."""
    scene = HttpScene(scripted_stream([HEL], failure))

    response = await scene.post(STREAM_REQUEST)

    first, last = response.chunks
    assert first == HEL.raw
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == code
    assert b"canary" not in last
    assert scene.chat.provider.answer.closed == 1  # type: ignore[union-attr]  # it is the stream above
    assert scene.observer.failures == ([failure] if code == "INTERNAL_ERROR" else [])


async def test_a_bug_before_the_response_is_a_500() -> None:
    """The envelope has no details, and the observer gets the exception."""
    bug = RuntimeError("canary")
    scene = HttpScene(bug)

    response = await scene.post()

    assert (response.status, response.error["code"]) == (500, "INTERNAL_ERROR")
    assert b"canary" not in response.body
    assert scene.observer.failures == [bug]
    assert scene.chat.exchange.error_code is ErrorCode.INTERNAL_ERROR


async def test_a_silent_stream_is_kept_alive() -> None:
    """Comments are sent during a silence of the provider, and none after the end."""
    stream = HeldStream()
    scene = HttpScene(stream)
    scene.limits = Limits(keep_alive_s=0.01)
    exchange, task = begin(scene, STREAM_REQUEST)
    await exchange.until_sent(3)

    for read in ([HEL, STOP], [DONE]):
        stream.queue.put_nowait(read)
    await task

    response = exchange.response()
    assert response.chunks[:2] == (b": keep-alive\n", b": keep-alive\n")
    assert response.body.replace(b": keep-alive\n", b"") == HEL.raw + STOP.raw + DONE.raw
    assert response.body.endswith(DONE.raw)


async def test_a_disconnect_during_a_completion_stops_the_provider() -> None:
    """The upstream request is cancelled at once, nothing is sent, and the turn is recorded as 499."""
    scene = HttpScene()
    provider = HeldProvider(ProviderBody(COMPLETION))
    scene.chat.provider = provider  # type: ignore[assignment]  # another provider of the same port
    exchange, task = begin(scene)
    await provider.asked.wait()

    exchange.leave.set()
    await task

    assert provider.cancelled.is_set()
    assert exchange.sent == []
    assert (scene.chat.exchange.status, scene.chat.exchange.is_complete) == (499, False)
    assert [r.status for r in scene.observer.requests] == [499]
    assert not task.cancelling()


async def test_a_disconnect_during_a_stream_closes_it() -> None:
    """The upstream stream is closed, the exchange is recorded as 499, and no error event is sent."""
    stream = HeldStream()
    scene = HttpScene(stream)
    exchange, task = begin(scene, STREAM_REQUEST)
    stream.queue.put_nowait([HEL])
    await exchange.until_sent(2)

    exchange.leave.set()
    await task

    assert stream.closed.is_set()
    assert len(exchange.sent) == 2
    assert (scene.chat.exchange.status, scene.chat.exchange.reached_provider) == (499, True)


async def test_a_disconnect_within_the_body_is_recorded() -> None:
    """No response and no upstream request are sent."""
    scene = HttpScene()
    exchange = AsgiCall((REQUEST[:9], REQUEST[9:]))
    exchange.leave.set()

    await exchange.run(scene.app(), chat_scope())

    assert exchange.sent == []
    assert scene.chat.exchange.status == 499
    assert scene.chat.provider.asked == []


async def test_a_stalled_body_times_out() -> None:
    """Its slot is released. The client gets an error, and the connection is closed."""
    scene = HttpScene()
    scene.limits = Limits(body_silence_s=0.02)
    exchange = AsgiCall(())

    await exchange.run(scene.app(), chat_scope((b"content-length", b"100")))

    response = exchange.response()
    assert (response.status, response.error["code"]) == (408, "REQUEST_TIMEOUT")
    assert (response.error["type"], response.headers["connection"]) == ("invalid_request_error", "close")
    assert scene.chat.exchange.error_code == "REQUEST_TIMEOUT"
    assert scene.chat.journaled
    assert (scene.chat.capacity.slots.in_use, scene.chat.capacity.body_bytes.in_use) == (0, 0)


async def test_a_shutdown_ends_a_running_stream_with_an_error() -> None:
    """A stream that is cancelled from outside gets its error event and its end."""
    stream = HeldStream()
    scene = HttpScene(stream)
    exchange, task = begin(scene, STREAM_REQUEST)
    await exchange.until_sent(1)

    task.cancel()
    await task

    (last,) = exchange.response().chunks
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "SERVICE_DEGRADED"
    assert stream.closed.is_set()
    assert (scene.chat.exchange.status, scene.chat.exchange.is_complete) == (503, False)


async def test_a_shutdown_ends_a_buffered_request_with_a_503() -> None:
    """A buffered request that is cancelled from outside gets a retryable 503, and is recorded."""
    scene = HttpScene()
    provider = HeldProvider(ProviderBody(COMPLETION))
    scene.chat.provider = provider  # type: ignore[assignment]  # another provider of the same port
    exchange, task = begin(scene)
    await provider.asked.wait()

    task.cancel()
    await task

    response = exchange.response()
    assert (response.status, response.error["code"]) == (503, ServiceDegradedError.code)
    assert response.headers["retry-after"] == "1"
    assert provider.cancelled.is_set()
    assert scene.chat.journaled


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.binary(max_size=60), min_size=1, max_size=4), st.none() | st.text(st.characters(codec="ascii")))
def test_no_body_causes_a_server_error(parts: list[bytes], content_type: str | None) -> None:
    """Any bytes in any parts get 400, 413 or 415 with the envelope."""
    scene = HttpScene()
    scene.limits = Limits(max_request_body_bytes=150)

    response = asyncio.run(scene.post(parts, headers={"content-type": content_type or "application/json"}))

    assert response.status in {400, 413, 415}
    assert response.error["request_id"] == response.headers["x-request-id"]
