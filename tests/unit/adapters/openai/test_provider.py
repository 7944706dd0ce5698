"""Tests of the OpenAI provider over a transport without sockets."""

from __future__ import annotations

import asyncio
import gzip
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from harness.cancellation import Cut, Moment, run_cut
from harness.chat_scene import outgoing_request
from harness.memory.clock import ManualClock
from harness.openai_wire import REQUEST_ID, completion_body, stream_events, text_deltas
from harness.simulated_time import in_simulated_time
from harness.upstream import HUSH, FakeResponse, FakeTransport, Hush, buffered, refused, streamed
from ibex import __version__
from ibex.adapters.http_client import retry
from ibex.adapters.openai import provider as provider_module
from ibex.adapters.openai.config import ApiKey, OpenAIConfig
from ibex.adapters.openai.extra_headers import parse_headers
from ibex.adapters.openai.provider import OpenAIProvider
from ibex.adapters.openai.stream import OpenAIStream
from ibex.domain.errors import OverloadedError
from ibex.domain.provider_errors import (
    ProviderError,
    ProviderRateLimitedError,
    ProviderRefusal,
    ProviderRefusedError,
    ProviderTimeoutError,
    ProviderUnavailableError,
)
from ibex.domain.proxying.provider import Dialect, ProviderBody, ProviderModel, TraceContext

if TYPE_CHECKING:
    from collections.abc import Sequence

KEY = "sk-canary-3f"
EVENTS = stream_events(text_deltas("Hi"))
SHORT_S = 0.02


class Scene:
    """A provider over scripted responses. It records the delays instead of sleeping."""

    def __init__(self, *responses: FakeResponse | Exception | Hush, **config: Any) -> None:
        self.transport = FakeTransport(*responses)
        self.delays: list[float] = []
        self.provider = OpenAIProvider(
            OpenAIConfig(api_key=ApiKey(KEY), **config),
            self.transport,
            ManualClock(),
            sleep=self._sleep,
            jitter=lambda: 0.0,
        )

    async def _sleep(self, seconds: float) -> None:
        self.delays.append(seconds)
        await asyncio.sleep(0)

    async def fails(self, kind: type[ProviderError], *, stream: bool = False) -> Any:
        """Send a request and return its error, which must be of this kind. All responses must be closed."""
        with pytest.raises(kind) as raised:
            await self.provider.complete(outgoing_request(stream=stream))
        assert type(raised.value) is kind
        assert self.transport.all_closed
        return raised.value


async def test_a_buffered_response_is_returned_byte_for_byte() -> None:
    """It has the number of attempts and the provider's request id. Its connection is released."""
    scene = Scene(buffered("Grüße"))
    response = await scene.provider.complete(outgoing_request())
    assert response == ProviderBody(completion_body("Grüße"), 1, REQUEST_ID)
    assert scene.transport.bodies[0].ended
    assert scene.transport.all_closed


async def test_a_streamed_response_is_left_open_for_its_reader() -> None:
    """The provider returns it once the head has arrived. The reader closes it."""
    scene = Scene(streamed(*EVENTS))
    response = await scene.provider.complete(outgoing_request(stream=True))
    assert isinstance(response, OpenAIStream)
    assert (response.attempts, response.provider_request_id, scene.transport.bodies[0].given) == (1, REQUEST_ID, 0)
    assert [event.raw async for events in response for event in events] == EVENTS
    assert scene.transport.bodies[0].closed == 0
    await response.aclose()
    assert scene.transport.all_closed


@pytest.mark.parametrize(("stream", "accept"), [(False, "application/json"), (True, "text/event-stream")])
async def test_only_headers_of_the_allow_list_are_sent(*, stream: bool, accept: str) -> None:
    """The body is sent unchanged, to the configured address."""
    scene = Scene(streamed(*EVENTS) if stream else buffered(), base_url="https://llm.example:8443/v1/")
    request = outgoing_request(stream=stream)
    response = await scene.provider.complete(request)
    if isinstance(response, OpenAIStream):
        await response.aclose()
    (sent,) = scene.transport.requests
    assert dict(sent.headers) == {
        "host": "llm.example:8443",
        "authorization": f"Bearer {KEY}",
        "content-type": "application/json",
        "accept-encoding": "identity",
        "user-agent": f"ibex/{__version__}",
        "accept": accept,
        "content-length": str(len(request.body)),
    }
    assert (sent.method, str(sent.url)) == ("POST", "https://llm.example:8443/v1/chat/completions")
    assert await sent.aread() == request.body


async def test_models_are_listed_with_key_and_extra_headers() -> None:
    """The request has the same headers as all other requests to the provider, but no body."""
    listed = FakeResponse(200, {}, (b'{"data":[{"id":"gpt-4o",', b'"created":7,"owned_by":"system"}]}'))
    scene = Scene(listed, base_url="https://llm.example/v1", headers=parse_headers("OpenAI-Project: p"))
    assert await scene.provider.list_models() == [ProviderModel("gpt-4o", 7, "system")]
    (sent,) = scene.transport.requests
    assert (sent.method, str(sent.url), await sent.aread()) == ("GET", "https://llm.example/v1/models", b"")
    assert (sent.headers["authorization"], sent.headers["openai-project"]) == (f"Bearer {KEY}", "p")
    assert "content-length" not in sent.headers
    assert scene.transport.all_closed


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (refused(401, "canary"), ProviderUnavailableError),
        (refused(404, "no such route"), ProviderRefusedError),
        (refused(429), ProviderRateLimitedError),
        (refused(503), ProviderUnavailableError),
        (refused(302, location="https://elsewhere.example/"), ProviderUnavailableError),
        (httpx.ConnectError("refused"), ProviderUnavailableError),
        (httpx.ConnectTimeout("slow"), ProviderTimeoutError),
        (httpx.PoolTimeout("busy"), OverloadedError),
        (FakeResponse(200, {}, (b"<html>",)), ProviderUnavailableError),
        (FakeResponse(200, {"content-encoding": "br"}, (b"x",)), ProviderUnavailableError),
        (FakeResponse(200, {}, (b'{"data":[', httpx.ReadError("reset"))), ProviderUnavailableError),
        (FakeResponse(200, {}, (b'{"data":[],"x":"', b"x" * (4 << 20), b'"}')), ProviderUnavailableError),
        (FakeResponse(204), ProviderUnavailableError),
    ],
)
async def test_a_failed_request_for_the_models_is_not_retried(
    response: FakeResponse | Exception, kind: type[Exception]
) -> None:
    """The error contains nothing of the response but a reason for the client."""
    scene = Scene(response)
    with pytest.raises(kind) as raised:
        await scene.provider.list_models()
    assert type(raised.value) is kind
    assert "canary" not in repr(vars(raised.value)) + str(raised.value)
    assert (len(scene.transport.requests), scene.delays) == (1, [])
    assert scene.transport.all_closed


@pytest.mark.parametrize("response", [HUSH, FakeResponse(200, {}, (b'{"data":', HUSH))])
async def test_cancelling_a_request_for_the_models_closes_the_response(response: FakeResponse | Hush) -> None:
    """The cancellation also ends a request that has no response yet."""
    scene = Scene(response)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(SHORT_S):
            await scene.provider.list_models()
    assert scene.transport.cancelled == (response is HUSH)
    assert scene.transport.all_closed


async def test_the_operators_headers_are_sent() -> None:
    """They replace headers of the same name. The repr of the configuration does not contain their values."""
    headers = parse_headers("OpenAI-Project: canary-1; Authorization: Basic canary-2")
    scene = Scene(buffered(), headers=headers)
    await scene.provider.complete(outgoing_request())
    sent = scene.transport.requests[0].headers
    assert (sent["openai-project"], sent.get_list("authorization")) == ("canary-1", ["Basic canary-2"])
    assert "canary" not in repr(vars(scene.provider)["_config"])


async def test_the_trace_is_sent_with_every_attempt() -> None:
    """Every attempt has the same ``traceparent`` of version 00."""
    scene = Scene(refused(503), buffered())
    await scene.provider.complete(replace(outgoing_request(), trace=TraceContext("0af7" * 8, 0xB7AD, 1)))
    sent = [request.headers["traceparent"] for request in scene.transport.requests]
    assert sent == [f"00-{'0af7' * 8}-000000000000b7ad-01"] * 2


@pytest.mark.parametrize(
    ("value", "expected"),
    [("412", 412), ("0", 0), ("9" * 9, 999_999_999), ("9" * 10, None), ("1.5", None), ("-1", None), ("\u00b2", None)],
)
async def test_the_providers_processing_time_is_recorded(value: str, expected: int | None) -> None:
    """The header must have a whole number of milliseconds. Any other value is ignored."""
    told = {"openai_processing_ms": value}
    scene = Scene(buffered(**told), streamed(*EVENTS, **told), refused(400, **told), streamed(b"<html>", **told))
    body = await scene.provider.complete(outgoing_request())
    stream = await scene.provider.complete(outgoing_request(stream=True))
    assert (body.processing_ms, stream.processing_ms) == (expected, expected)
    assert isinstance(stream, OpenAIStream)
    await stream.aclose()
    assert (await scene.fails(ProviderRefusedError)).processing_ms == expected
    assert (await scene.fails(ProviderUnavailableError)).processing_ms == expected


async def test_the_connect_timeout_is_passed_to_the_transport() -> None:
    """The transport applies it."""
    scene = Scene(buffered(), connect_timeout_s=1.5)
    await scene.provider.complete(outgoing_request())
    assert scene.transport.requests[0].extensions["timeout"]["connect"] == 1.5


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504])
async def test_a_transient_failure_is_retried(status: int) -> None:
    """The delays double. The response counts all attempts, and the failed responses are closed."""
    scene = Scene(refused(status), refused(status), buffered())
    response = await scene.provider.complete(outgoing_request())
    assert (response.attempts, scene.delays) == (3, [0.5, 1.0])
    assert scene.transport.all_closed


@pytest.mark.parametrize(
    "failure",
    [
        httpx.ConnectError("refused"),
        httpx.ConnectTimeout("slow"),
        httpx.ReadError("reset"),
        httpx.RemoteProtocolError("server disconnected"),
    ],
)
async def test_a_connection_that_fails_before_the_response_is_retried(failure: Exception) -> None:
    """This also applies to a stream."""
    scene = Scene(failure, streamed(*EVENTS))
    response = await scene.provider.complete(outgoing_request(stream=True))
    assert response.attempts == 2
    assert isinstance(response, OpenAIStream)
    await response.aclose()


async def test_the_last_response_decides_the_error() -> None:
    """Earlier failures do not matter once all retries are used."""
    scene = Scene(httpx.ConnectError("x"), refused(500), refused(503), refused(429, retry_after="9"))
    error = await scene.fails(ProviderRateLimitedError)
    assert (error.attempts, error.retry_after_s, error.provider_request_id) == (4, 9, REQUEST_ID)
    assert scene.delays == [0.5, 1.0, 2.0]


async def test_the_first_response_decides_the_error_if_retries_are_disabled() -> None:
    """There is only one attempt."""
    scene = Scene(refused(503), max_retries=0)
    error = await scene.fails(ProviderUnavailableError)
    assert (error.attempts, scene.delays) == (1, [])


async def test_the_delay_in_the_providers_response_is_respected() -> None:
    """The provider sends seconds, milliseconds, or a date."""
    scene = Scene(
        refused(429, retry_after="3"),
        refused(503, retry_after_ms="4500"),
        refused(503, retry_after="Fri, 02 Jan 2026 03:04:12 GMT"),
        buffered(),
    )
    await scene.provider.complete(outgoing_request())
    assert scene.delays == [3, 4.5, 7]


async def test_a_delay_beyond_the_maximum_is_passed_to_the_client() -> None:
    """The client gets the error at once."""
    scene = Scene(refused(429, retry_after="3600"))
    error = await scene.fails(ProviderRateLimitedError)
    assert (error.attempts, error.retry_after_s, scene.delays) == (1, 3600, [])


async def test_a_delay_beyond_the_deadline_disables_the_retry() -> None:
    """The current response decides the error."""
    scene = Scene(refused(503), request_timeout_s=0.4)
    assert (await scene.fails(ProviderUnavailableError)).attempts == 1
    assert scene.delays == []


@pytest.mark.parametrize(
    ("status", "refusal"),
    [
        (400, ProviderRefusal.BAD_REQUEST),
        (402, ProviderRefusal.PAYMENT_REQUIRED),
        (404, ProviderRefusal.NOT_FOUND),
        (413, ProviderRefusal.TOO_LARGE),
        (422, ProviderRefusal.UNPROCESSABLE),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_refused_request_is_not_sent_again(status: int, refusal: ProviderRefusal, *, stream: bool) -> None:
    """The error has the provider's message."""
    scene = Scene(refused(status, "too many tokens"))
    error = await scene.fails(ProviderRefusedError, stream=stream)
    assert (error.refusal, error.detail, error.attempts) == (refusal, "too many tokens", 1)


@pytest.mark.parametrize("status", [101, 301, 302, 401, 403, 418, 501])
async def test_any_other_status_is_not_retried_and_has_no_details(status: int) -> None:
    """The error contains no text of the response, and redirects are not followed."""
    scene = Scene(refused(status, "canary-9a", location="https://elsewhere.example/"))
    error = await scene.fails(ProviderUnavailableError)
    assert "canary" not in repr(vars(error)) + str(error)
    assert (error.attempts, len(scene.transport.requests)) == (1, 1)


@pytest.mark.parametrize("status", [520, 521, 522, 523, 524, 525, 529, 530])
async def test_statuses_of_content_delivery_networks_are_retried(status: int) -> None:
    """They mean that the network could not reach the provider, or got no answer in time."""
    scene = Scene(refused(status), buffered())
    assert (await scene.provider.complete(outgoing_request())).attempts == 2


@pytest.mark.parametrize("status", [408, 409, 500, 502, 504, 520])
async def test_a_request_that_the_provider_may_have_processed_is_not_retried(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider would bill it twice."""
    monkeypatch.setattr(retry, "RETRIED_WITHIN_S", -1.0)
    scene = Scene(refused(status), buffered())
    error = ProviderRefusedError if status == 409 else ProviderUnavailableError
    assert (await scene.fails(error)).attempts == 1


@pytest.mark.parametrize("failure", [httpx.ReadError("reset"), httpx.RemoteProtocolError("server disconnected")])
async def test_a_connection_that_fails_late_is_not_retried(failure: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider may have processed the request."""
    monkeypatch.setattr(retry, "RETRIED_WITHIN_S", -1.0)
    scene = Scene(failure, buffered())
    assert (await scene.fails(ProviderUnavailableError)).attempts == 1


@pytest.mark.parametrize(
    "response", [refused(429), refused(503), httpx.ConnectError("refused"), httpx.ConnectTimeout("slow")]
)
async def test_a_request_that_the_provider_has_not_processed_is_retried_at_any_time(
    response: FakeResponse | Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider reports that it did not process the request, or no connection was made."""
    monkeypatch.setattr(retry, "RETRIED_WITHIN_S", -1.0)
    scene = Scene(response, buffered())
    assert (await scene.provider.complete(outgoing_request())).attempts == 2


@pytest.mark.parametrize("status", [429, 500])
async def test_x_should_retry_false_disables_the_retry(status: int) -> None:
    """OpenAI's SDKs obey this header too."""
    scene = Scene(refused(status, x_should_retry="false"), buffered())
    error = ProviderRateLimitedError if status == 429 else ProviderUnavailableError
    assert (await scene.fails(error)).attempts == 1


@pytest.mark.parametrize("status", [418, 500])
async def test_x_should_retry_true_causes_a_retry(status: int) -> None:
    """The provider's header overrides the status."""
    scene = Scene(refused(status, x_should_retry="true"), buffered())
    assert (await scene.provider.complete(outgoing_request())).attempts == 2


async def test_an_exhausted_quota_is_not_retried() -> None:
    """A retry cannot succeed before the account has credit again."""
    scene = Scene(refused(429, code="insufficient_quota"), buffered())
    error = await scene.fails(ProviderRateLimitedError)
    assert (error.attempts, error.provider_code, error.is_hopeless) == (1, "insufficient_quota", True)


@pytest.mark.parametrize(
    "response",
    [
        FakeResponse(400, {}, (httpx.ReadError("cut"),)),
        FakeResponse(400, {}, (b"{", HUSH)),
        FakeResponse(400, {}, (bytes(70_000),)),
        FakeResponse(400, {"content-encoding": "br"}, (b"x",)),
        FakeResponse(400, {}, ()),
    ],
)
async def test_a_refusal_whose_body_cannot_be_read_is_still_a_refusal(response: FakeResponse) -> None:
    """The status alone identifies a refusal."""
    error = await Scene(response, idle_timeout_s=SHORT_S).fails(ProviderRefusedError)
    assert (error.refusal, error.detail) == (ProviderRefusal.BAD_REQUEST, None)


@pytest.mark.parametrize(
    "response",
    [
        FakeResponse(200, {"content-type": "text/html"}, (b"<html></html>",)),
        FakeResponse(200, {"content-type": "text/event-stream"}, tuple(EVENTS)),
        FakeResponse(200, {"content-type": "application/json", "content-encoding": "br"}, (b"{}",)),
        FakeResponse(200, {"content-type": "application/json", "content-encoding": "gzip"}, (b"{}",)),
        FakeResponse(200, {"content-type": "application/json"}, ()),
        FakeResponse(200, {"content-type": "application/json"}, (b"[]",)),
        FakeResponse(200, {"content-type": "application/json"}, (b'{"id": "cut off',)),
        FakeResponse(204, {"content-type": "application/json"}, ()),
    ],
)
async def test_a_success_that_is_not_a_completion_is_an_error(response: FakeResponse) -> None:
    """It is not retried, because the provider has responded."""
    error = await Scene(response).fails(ProviderUnavailableError)
    assert (error.attempts, error.provider_request_id) == (1, None)


@pytest.mark.parametrize("status", [200, 201])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        *(
            {"content-type": value}
            for value in (
                "application/json; charset=utf-8",
                "Application/JSON",
                "application/x+json",
                "application/json, application/json",
                "text/plain",
                "text/event-stream",
                "text/html",
            )
        ),
    ],
)
async def test_a_completion_is_recognized_by_its_content(headers: dict[str, str], status: int) -> None:
    """The media type does not matter."""
    body = completion_body("Hi")
    response = await Scene(FakeResponse(status, headers, (body,))).provider.complete(outgoing_request())
    assert isinstance(response, ProviderBody)
    assert response.body == body


async def test_a_body_that_is_cut_off_by_its_framing_closes_the_connection() -> None:
    """Otherwise the rest could follow and be read as the next response."""
    cut = Scene(FakeResponse(200, {"content-type": "application/json"}, (b'{"id": "cut off',)))
    await cut.fails(ProviderUnavailableError)
    whole = Scene(buffered())
    await whole.provider.complete(outgoing_request())
    assert [scene.transport.network_streams[0].closed for scene in (cut, whole)] == [1, 0]


@pytest.mark.parametrize(
    "response",
    [
        buffered(),
        FakeResponse(200, {"content-type": "text/html"}, (b"<html></html>",)),
        FakeResponse(200, {"content-type": "text/event-stream", "content-encoding": "br"}, (b"x",)),
        FakeResponse(200, {"content-type": "application/octet-stream"}, ()),
        FakeResponse(200, {"content-type": "application/octet-stream"}, (b"{", b"data: {}\n\n")),
        FakeResponse(200, {"content-type": "application/octet-stream"}, (httpx.ReadError("reset"),)),
        FakeResponse(204, {}, ()),
    ],
)
async def test_a_success_that_is_not_an_event_stream_is_an_error(response: FakeResponse) -> None:
    """It is detected before any header is sent to the client."""
    await Scene(response).fails(ProviderUnavailableError, stream=True)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        *(
            {"content-type": value}
            for value in (
                "text/plain; charset=utf-8",
                "text/event-stream, text/event-stream; charset=utf-8",
                "application/json",
                "application/x-ndjson",
                "application/octet-stream",
            )
        ),
    ],
)
async def test_a_stream_with_another_media_type_is_accepted(headers: dict[str, str]) -> None:
    """Some servers send the default media type of their framework. The first bytes decide."""
    response = await Scene(FakeResponse(200, headers, tuple(EVENTS))).provider.complete(outgoing_request(stream=True))
    assert isinstance(response, OpenAIStream)
    assert b"".join([event.raw async for events in response for event in events]) == b"".join(EVENTS)


async def test_unrequested_compression_is_decompressed() -> None:
    """The client gets the decompressed data."""
    data = gzip.compress(completion_body("Hi"))
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    response = await Scene(FakeResponse(200, headers, (data[:9], data[9:]))).provider.complete(outgoing_request())
    assert isinstance(response, ProviderBody)
    assert response.body == completion_body("Hi")


async def test_a_truncated_body_is_not_retried() -> None:
    """The provider has done the work and bills it."""
    response = FakeResponse(
        200, {"content-type": "application/json", "x-request-id": "r"}, (b"{", httpx.ReadError("x"))
    )
    error = await Scene(response).fails(ProviderUnavailableError)
    assert (error.attempts, error.provider_request_id) == (1, "r")


async def test_a_body_that_is_too_large_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The adapter defines the limit."""
    monkeypatch.setattr(provider_module, "MAX_BODY_BYTES", 100)
    await Scene(buffered("x" * 100)).fails(ProviderUnavailableError)


@pytest.mark.parametrize("stream", [False, True])
async def test_silence_before_the_response_times_out_without_a_retry(*, stream: bool) -> None:
    """The connection is closed."""
    for config in ({"first_byte_timeout_s": SHORT_S}, {"request_timeout_s": SHORT_S}):
        scene = Scene(HUSH, **config)
        assert (await scene.fails(ProviderTimeoutError, stream=stream)).attempts == 1
        assert scene.transport.cancelled == 1


async def test_silence_in_a_buffered_response_times_out() -> None:
    """The silence may be before the first byte of the body or after it."""
    headers = {"content-type": "application/json"}
    before = FakeResponse(200, headers, (HUSH,))
    after = FakeResponse(200, headers, (b"{", HUSH))
    await Scene(before, first_byte_timeout_s=SHORT_S).fails(ProviderTimeoutError)
    await Scene(after, idle_timeout_s=SHORT_S).fails(ProviderTimeoutError)
    await Scene(after, request_timeout_s=SHORT_S).fails(ProviderTimeoutError)


@in_simulated_time
async def test_a_stream_that_has_begun_has_no_deadline() -> None:
    """Only the silence between its events is limited, not its total duration."""
    scene = Scene(streamed(*EVENTS), request_timeout_s=10.0)
    response = await scene.provider.complete(outgoing_request(stream=True))
    assert isinstance(response, OpenAIStream)
    await asyncio.sleep(11)
    assert [event.raw async for events in response for event in events] == EVENTS
    await response.aclose()


async def test_no_free_connection_means_that_the_proxy_is_overloaded() -> None:
    """The request is not retried, because that would increase the load."""
    scene = Scene(httpx.PoolTimeout("full"))
    with pytest.raises(OverloadedError):
        await scene.provider.complete(outgoing_request())
    assert scene.delays == []


@pytest.mark.parametrize("value", ["", "x" * 257, "réq"])
async def test_an_invalid_request_id_is_ignored(value: str) -> None:
    """A valid id fits into a header and a database column."""
    headers = {"content-type": "application/json", "x-request-id": value}
    response = await Scene(FakeResponse(200, headers, (completion_body("Hi"),))).provider.complete(outgoing_request())
    assert response.provider_request_id is None


RESPONSES: list[tuple[Sequence[FakeResponse | Exception | Hush], bool]] = [
    ([buffered()], False),
    ([refused(503), buffered()], False),
    ([refused(400)], False),
    ([HUSH], False),
    ([FakeResponse(200, {"content-type": "application/json"}, (b"{", HUSH))], False),
    ([httpx.ConnectError("x"), streamed(*EVENTS)], True),
    ([FakeResponse(200, {"content-type": "text/html"}, (b"<html>",))], True),
]


@pytest.mark.parametrize(("responses", "stream"), RESPONSES)
async def test_a_cancellation_closes_all_responses(
    responses: Sequence[FakeResponse | Exception | Hush], *, stream: bool
) -> None:
    """The test cancels once or twice at every wait. No task is left either."""
    cuts_reached = 0
    for suspension in range(1, 16):
        for moment in Moment:
            scene = Scene(*responses, first_byte_timeout_s=0.1, idle_timeout_s=0.05)

            async def converse(scene: Scene = scene) -> None:
                try:
                    response = await scene.provider.complete(outgoing_request(stream=stream))
                except ProviderError:
                    return
                if isinstance(response, OpenAIStream):
                    await response.aclose()

            run = await run_cut(converse, Cut(suspension, moment), Cut(suspension + 1, moment))
            cuts_reached += run.cuts_reached
            assert (run.complaints, run.tasks_left) == ([], [])
            assert scene.transport.all_closed
    assert cuts_reached > 0


async def test_logs_and_reprs_contain_neither_the_key_nor_texts(caplog: pytest.LogCaptureFixture) -> None:
    """This holds at every log level, for all kinds of responses."""
    caplog.set_level(logging.DEBUG)
    scene = Scene(buffered("canary-11"), refused(401, "canary-12"), max_retries=0)
    response = await scene.provider.complete(outgoing_request())
    error = await scene.fails(ProviderUnavailableError)
    shown = f"{response!r} {error!r} {scene.provider!r} {vars(scene.provider)['_config']!r} {caplog.text}"
    assert "canary" not in shown


def test_the_provider_has_the_configured_models_and_dialect() -> None:
    """The name is fixed."""
    dialect = Dialect(has_lenient_end=True)
    provider = Scene(models=("my-*",), dialect=dialect).provider
    assert (provider.name, provider.models, provider.dialect) == ("openai", ("my-*",), dialect)


async def test_a_new_key_is_sent_from_the_next_attempt_on() -> None:
    """The headers of the operator change with it. A retry of a request that is under way has the new key, too."""
    scene = Scene(refused(503), buffered(), buffered())

    async def rotate(_seconds: float) -> None:
        scene.provider.use_credentials(ApiKey("sk-new"), parse_headers("OpenAI-Project: p2"))

    scene.provider._sleep = rotate  # noqa: SLF001 - the moment between two attempts
    await scene.provider.complete(outgoing_request())
    await scene.provider.complete(outgoing_request())

    sent = [
        (request.headers["authorization"], request.headers.get("openai-project"))
        for request in scene.transport.requests
    ]
    assert sent == [(f"Bearer {KEY}", None), ("Bearer sk-new", "p2"), ("Bearer sk-new", "p2")]
