"""Asking OpenAI's API, over a transport without sockets."""

from __future__ import annotations

import asyncio
import gzip
import logging
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from harness.cancellation import Cut, Moment, run_cut
from harness.chat_scene import outgoing_request
from harness.memory.clock import ManualClock
from harness.openai_wire import REQUEST_ID, completion_body, stream_events, text_deltas
from harness.upstream import HUSH, FakeAnswer, FakeTransport, Hush, buffered, refused, streamed
from ibex import __version__
from ibex.adapters.openai import provider as provider_module
from ibex.adapters.openai.config import ApiKey, OpenAIConfig
from ibex.adapters.openai.provider import OpenAIProvider
from ibex.adapters.openai.stream import OpenAIStream
from ibex.domain.errors import (
    OverloadedError,
    ProviderError,
    ProviderRateLimitedError,
    ProviderRefusedError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    Refusal,
)
from ibex.domain.proxying.provider import ProviderBody

if TYPE_CHECKING:
    from collections.abc import Sequence

KEY = "sk-canary-3f"
EVENTS = stream_events(text_deltas("Hi"))
SHORT_S = 0.02


class Scene:
    """A provider over scripted answers; what it would have slept is recorded."""

    def __init__(self, *answers: FakeAnswer | Exception | Hush, **config: Any) -> None:
        self.transport = FakeTransport(*answers)
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
        """Ask and return the error, which must be of this kind; all that was opened must be closed."""
        with pytest.raises(kind) as raised:
            await self.provider.complete(outgoing_request(stream=stream))
        assert type(raised.value) is kind
        assert self.transport.all_closed
        return raised.value


async def test_a_buffered_answer_comes_byte_for_byte() -> None:
    """With the number of tries and the provider's own id; its connection is given back."""
    scene = Scene(buffered("Grüße"))
    answer = await scene.provider.complete(outgoing_request())
    assert answer == ProviderBody(completion_body("Grüße"), 1, REQUEST_ID)
    assert scene.transport.bodies[0].ended
    assert scene.transport.all_closed


async def test_a_streamed_answer_is_left_open_for_its_reader() -> None:
    """It is returned as soon as the status has come; closing it is the reader's."""
    scene = Scene(streamed(*EVENTS))
    answer = await scene.provider.complete(outgoing_request(stream=True))
    assert isinstance(answer, OpenAIStream)
    assert (answer.attempts, answer.provider_request_id, scene.transport.bodies[0].given) == (1, REQUEST_ID, 0)
    assert [event.raw async for events in answer for event in events] == EVENTS
    assert scene.transport.bodies[0].closed == 0
    await answer.aclose()
    assert scene.transport.all_closed


@pytest.mark.parametrize(("stream", "accept"), [(False, "application/json"), (True, "text/event-stream")])
async def test_only_headers_of_the_allow_list_are_sent(*, stream: bool, accept: str) -> None:
    """The body goes as it is, to the one address of the configuration."""
    scene = Scene(streamed(*EVENTS) if stream else buffered(), base_url="https://llm.example:8443/v1/")
    request = outgoing_request(stream=stream)
    answer = await scene.provider.complete(request)
    if isinstance(answer, OpenAIStream):
        await answer.aclose()
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


async def test_the_connection_has_its_own_timeout() -> None:
    """It is the transport's to keep."""
    scene = Scene(buffered(), connect_timeout_s=1.5)
    await scene.provider.complete(outgoing_request())
    assert scene.transport.requests[0].extensions["timeout"]["connect"] == 1.5


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504])
async def test_a_passing_failure_is_retried(status: int) -> None:
    """The delays double; the answer in the end counts all tries, and every answer on the way was closed."""
    scene = Scene(refused(status), refused(status), buffered())
    answer = await scene.provider.complete(outgoing_request())
    assert (answer.attempts, scene.delays) == (3, [0.5, 1.0])
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
async def test_a_connection_that_dies_before_the_answer_is_retried(failure: Exception) -> None:
    """Also for a stream."""
    scene = Scene(failure, streamed(*EVENTS))
    answer = await scene.provider.complete(outgoing_request(stream=True))
    assert answer.attempts == 2
    assert isinstance(answer, OpenAIStream)
    await answer.aclose()


async def test_the_last_answer_decides_the_error() -> None:
    """After the retries are used up, whatever came before."""
    scene = Scene(httpx.ConnectError("x"), refused(500), refused(503), refused(429, retry_after="9"))
    error = await scene.fails(ProviderRateLimitedError)
    assert (error.attempts, error.retry_after_s, error.provider_request_id) == (4, 9, REQUEST_ID)
    assert scene.delays == [0.5, 1.0, 2.0]


async def test_without_retries_the_first_answer_decides() -> None:
    """Zero retries are one try."""
    scene = Scene(refused(503), max_retries=0)
    error = await scene.fails(ProviderUnavailableError)
    assert (error.attempts, scene.delays) == (1, [])


async def test_the_providers_own_delay_is_kept() -> None:
    """In seconds, milliseconds or as a date by the proxy's clock."""
    scene = Scene(
        refused(429, retry_after="3"),
        refused(503, retry_after_ms="4500"),
        refused(503, retry_after="Fri, 02 Jan 2026 03:04:12 GMT"),
        buffered(),
    )
    await scene.provider.complete(outgoing_request())
    assert scene.delays == [3, 4.5, 7]


async def test_a_delay_beyond_the_cap_is_passed_on_instead() -> None:
    """The client hears of it at once."""
    scene = Scene(refused(429, retry_after="3600"))
    error = await scene.fails(ProviderRateLimitedError)
    assert (error.attempts, error.retry_after_s, scene.delays) == (1, 3600, [])


async def test_a_delay_beyond_the_deadline_is_not_waited_for() -> None:
    """The answer that is there decides."""
    scene = Scene(refused(503), request_timeout_s=0.4)
    assert (await scene.fails(ProviderUnavailableError)).attempts == 1
    assert scene.delays == []


@pytest.mark.parametrize(
    ("status", "refusal"),
    [(400, Refusal.BAD_REQUEST), (404, Refusal.NOT_FOUND), (413, Refusal.TOO_LARGE), (422, Refusal.UNPROCESSABLE)],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_refused_request_is_not_sent_again(status: int, refusal: Refusal, *, stream: bool) -> None:
    """The provider's words on it are kept."""
    scene = Scene(refused(status, "too many tokens"))
    error = await scene.fails(ProviderRefusedError, stream=stream)
    assert (error.refusal, error.detail, error.attempts) == (refusal, "too many tokens", 1)


@pytest.mark.parametrize("status", [101, 301, 302, 401, 403, 418, 501, 529])
async def test_any_other_status_is_not_retried_and_says_nothing(status: int) -> None:
    """No text of it is in the error, no redirect is followed."""
    scene = Scene(refused(status, "canary-9a", location="https://elsewhere.example/"))
    error = await scene.fails(ProviderUnavailableError)
    assert "canary" not in repr(vars(error)) + str(error)
    assert (error.attempts, len(scene.transport.requests)) == (1, 1)


@pytest.mark.parametrize(
    "answer",
    [
        FakeAnswer(400, {}, (httpx.ReadError("cut"),)),
        FakeAnswer(400, {}, (b"{", HUSH)),
        FakeAnswer(400, {}, (bytes(70_000),)),
        FakeAnswer(400, {"content-encoding": "br"}, (b"x",)),
        FakeAnswer(400, {}, ()),
    ],
)
async def test_a_refusal_whose_body_cannot_be_read_is_still_a_refusal(answer: FakeAnswer) -> None:
    """The status says enough."""
    error = await Scene(answer, idle_timeout_s=SHORT_S).fails(ProviderRefusedError)
    assert (error.refusal, error.detail) == (Refusal.BAD_REQUEST, None)


@pytest.mark.parametrize(
    "answer",
    [
        FakeAnswer(200, {"content-type": "text/html"}, (b"<html></html>",)),
        FakeAnswer(200, {"content-type": "text/event-stream"}, tuple(EVENTS)),
        FakeAnswer(200, {"content-type": "application/json", "content-encoding": "br"}, (b"{}",)),
        FakeAnswer(200, {"content-type": "application/json", "content-encoding": "gzip"}, (b"{}",)),
        FakeAnswer(200, {"content-type": "application/json"}, ()),
        FakeAnswer(200, {"content-type": "application/json"}, (b"[]",)),
        FakeAnswer(200, {"content-type": "application/json"}, (b'{"id": "cut off',)),
        FakeAnswer(204, {"content-type": "application/json"}, ()),
    ],
)
async def test_a_success_that_is_no_completion_is_none(answer: FakeAnswer) -> None:
    """It is not asked for again: the provider has answered."""
    error = await Scene(answer).fails(ProviderUnavailableError)
    assert (error.attempts, error.provider_request_id) == (1, None)


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON", "application/x+json"])
async def test_json_by_any_of_its_names_is_a_completion(content_type: str) -> None:
    """A server that names no type is believed by its bytes."""
    body = completion_body("Hi")
    for headers in ({"content-type": content_type}, {}):
        answer = await Scene(FakeAnswer(200, headers, (body,))).provider.complete(outgoing_request())
        assert isinstance(answer, ProviderBody)
        assert answer.body == body


async def test_a_body_cut_off_by_its_own_framing_costs_its_connection() -> None:
    """The rest of it may still be there, and would be taken for the next answer."""
    cut = Scene(FakeAnswer(200, {"content-type": "application/json"}, (b'{"id": "cut off',)))
    await cut.fails(ProviderUnavailableError)
    whole = Scene(buffered())
    await whole.provider.complete(outgoing_request())
    assert [scene.transport.network_streams[0].closed for scene in (cut, whole)] == [1, 0]


@pytest.mark.parametrize(
    "answer",
    [
        buffered(),
        FakeAnswer(200, {"content-type": "text/html"}, (b"<html></html>",)),
        FakeAnswer(200, {"content-type": "text/event-stream", "content-encoding": "br"}, (b"x",)),
        FakeAnswer(204, {}, ()),
    ],
)
async def test_a_success_that_is_no_event_stream_is_no_stream(answer: FakeAnswer) -> None:
    """An error object in the clothes of a success, among others; before any header went to the client."""
    await Scene(answer).fails(ProviderUnavailableError, stream=True)


@pytest.mark.parametrize("headers", [{}, {"content-type": "text/plain; charset=utf-8"}])
async def test_a_stream_by_another_name(headers: dict[str, str]) -> None:
    """Some servers of OpenAI's API leave it to their framework to say what they send."""
    answer = await Scene(FakeAnswer(200, headers, tuple(EVENTS))).provider.complete(outgoing_request(stream=True))
    assert isinstance(answer, OpenAIStream)
    assert b"".join([event.raw async for events in answer for event in events]) == b"".join(EVENTS)


async def test_compression_that_was_not_asked_for_is_undone() -> None:
    """The client gets what it would have got without."""
    data = gzip.compress(completion_body("Hi"))
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    answer = await Scene(FakeAnswer(200, headers, (data[:9], data[9:]))).provider.complete(outgoing_request())
    assert isinstance(answer, ProviderBody)
    assert answer.body == completion_body("Hi")


async def test_a_body_that_breaks_is_not_asked_for_again() -> None:
    """The provider has worked for it, and will be paid."""
    answer = FakeAnswer(200, {"content-type": "application/json", "x-request-id": "r"}, (b"{", httpx.ReadError("x")))
    error = await Scene(answer).fails(ProviderUnavailableError)
    assert (error.attempts, error.provider_request_id) == (1, "r")


async def test_a_body_that_is_too_large_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is the adapter's own."""
    monkeypatch.setattr(provider_module, "MAX_BODY_BYTES", 100)
    await Scene(buffered("x" * 100)).fails(ProviderUnavailableError)


@pytest.mark.parametrize("stream", [False, True])
async def test_silence_before_the_answer_is_a_timeout_and_not_retried(*, stream: bool) -> None:
    """The request is given up with it."""
    for config in ({"first_byte_timeout_s": SHORT_S}, {"request_timeout_s": SHORT_S}):
        scene = Scene(HUSH, **config)
        assert (await scene.fails(ProviderTimeoutError, stream=stream)).attempts == 1
        assert scene.transport.cancelled == 1


async def test_silence_in_a_buffered_answer_is_a_timeout() -> None:
    """Before its first byte and after it."""
    headers = {"content-type": "application/json"}
    before = FakeAnswer(200, headers, (HUSH,))
    after = FakeAnswer(200, headers, (b"{", HUSH))
    await Scene(before, first_byte_timeout_s=SHORT_S).fails(ProviderTimeoutError)
    await Scene(after, idle_timeout_s=SHORT_S).fails(ProviderTimeoutError)
    await Scene(after, request_timeout_s=SHORT_S).fails(ProviderTimeoutError)


async def test_no_free_connection_is_the_proxys_own_overload() -> None:
    """It is not retried: that would make it worse."""
    scene = Scene(httpx.PoolTimeout("full"))
    with pytest.raises(OverloadedError):
        await scene.provider.complete(outgoing_request())
    assert scene.delays == []


@pytest.mark.parametrize("value", ["", "x" * 257, "réq"])
async def test_an_id_that_cannot_be_passed_on_is_as_if_there_was_none(value: str) -> None:
    """It goes into a header and a column."""
    headers = {"content-type": "application/json", "x-request-id": value}
    answer = await Scene(FakeAnswer(200, headers, (completion_body("Hi"),))).provider.complete(outgoing_request())
    assert answer.provider_request_id is None


ANSWERS: list[tuple[Sequence[FakeAnswer | Exception | Hush], bool]] = [
    ([buffered()], False),
    ([refused(503), buffered()], False),
    ([refused(400)], False),
    ([HUSH], False),
    ([FakeAnswer(200, {"content-type": "application/json"}, (b"{", HUSH))], False),
    ([httpx.ConnectError("x"), streamed(*EVENTS)], True),
    ([FakeAnswer(200, {"content-type": "text/html"}, (b"<html>",))], True),
]


@pytest.mark.parametrize(("answers", "stream"), ANSWERS)
async def test_no_cancellation_leaves_an_answer_open(
    answers: Sequence[FakeAnswer | Exception | Hush], *, stream: bool
) -> None:
    """Cancelled at every wait, once or twice in a row, all that was opened is closed and no task is left."""
    cuts_reached = 0
    for suspension in range(1, 16):
        for moment in Moment:
            scene = Scene(*answers, first_byte_timeout_s=0.1, idle_timeout_s=0.05)

            async def converse(scene: Scene = scene) -> None:
                try:
                    answer = await scene.provider.complete(outgoing_request(stream=stream))
                except ProviderError:
                    return
                if isinstance(answer, OpenAIStream):
                    await answer.aclose()

            run = await run_cut(converse, Cut(suspension, moment), Cut(suspension + 1, moment))
            cuts_reached += run.cuts_reached
            assert (run.complaints, run.tasks_left) == ([], [])
            assert scene.transport.all_closed
    assert cuts_reached > 0


async def test_the_key_and_the_texts_are_in_no_log_and_no_repr(caplog: pytest.LogCaptureFixture) -> None:
    """At any level, for answers of all kinds."""
    caplog.set_level(logging.DEBUG)
    scene = Scene(buffered("canary-11"), refused(401, "canary-12"), max_retries=0)
    answer = await scene.provider.complete(outgoing_request())
    error = await scene.fails(ProviderUnavailableError)
    shown = f"{answer!r} {error!r} {scene.provider!r} {vars(scene.provider)['_config']!r} {caplog.text}"
    assert "canary" not in shown


def test_it_says_what_it_is() -> None:
    """Name, models and whether usage can be asked for, from the configuration."""
    provider = Scene(models=("my-*",), stream_usage=False).provider
    assert (provider.name, provider.models, provider.reports_stream_usage) == ("openai", ("my-*",), False)
