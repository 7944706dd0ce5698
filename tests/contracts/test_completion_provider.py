"""The contract of ``Provider``."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import pytest

from harness.chat_requests import summary_of
from harness.chat_scene import chat_request
from harness.memory.clock import ManualClock
from harness.openai import ScriptedOpenAI
from harness.openai_wire import Gate, Pause, completion, open_stream, stream_events
from harness.openai_wire import text_stream as streamed_text
from ibex.adapters.http_client.transport import default_transport
from ibex.adapters.openai.config import ApiKey, OpenAIConfig
from ibex.adapters.openai.echo import EchoProvider
from ibex.adapters.openai.provider import OpenAIProvider
from ibex.adapters.openai_api.chat_completions import ChatCompletions
from ibex.adapters.openai_api.chat_injection import Message
from ibex.adapters.openai_api.chat_response import ChatResponseReader
from ibex.adapters.openai_api.server_sent_events import DONE, EventSplitter
from ibex.domain.proxying.provider import ProviderBody, ProviderRegistry, ProviderRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ibex.domain.proxying.provider import Provider, ProviderStream, StreamEvent

WORDS = ("One", " two", " drei 🙂")
TEXT = "".join(WORDS)


class Stage(Protocol):
    """A provider whose next answer a test can choose."""

    @property
    def provider(self) -> Provider:
        """The provider."""

    def will_answer(self) -> None:
        """Its next answer is ``TEXT``."""

    def will_stream(self) -> None:
        """Its next answer is a stream of ``WORDS``, with usage."""

    def will_stall(self) -> None:
        """Its next answer is a stream that stalls after its first event."""

    def will_think(self) -> None:
        """Its next answer does not come."""

    async def was_asked_to_stop(self) -> None:
        """Return once the answer that does not come was given up."""


def events_of(*raw: bytes) -> list[StreamEvent]:
    """Return the events in some bytes."""
    return EventSplitter().feed(b"".join(raw))


class EchoStage:
    """The echo provider, which repeats the text."""

    def __init__(self) -> None:
        self._stalls_at: float | None = None
        self._given_up = asyncio.Event()
        self.provider = EchoProvider(ManualClock(), first_byte_delay_s=1, chunk_delay_s=2, sleep=self._sleep)

    def will_answer(self) -> None:
        """It always does."""

    def will_stream(self) -> None:
        """It always does."""

    def will_stall(self) -> None:
        """Stop at the pause between two events."""
        self._stalls_at = 2

    def will_think(self) -> None:
        """Stop at the pause before the answer."""
        self._stalls_at = 1

    async def was_asked_to_stop(self) -> None:
        """Wait for the cancellation."""
        await self._given_up.wait()

    async def _sleep(self, seconds: float) -> None:
        if seconds != self._stalls_at:
            await asyncio.sleep(0)
            return
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self._given_up.set()
            raise


@dataclass(slots=True)
class OpenAIStage:
    """The real adapter, connected to a scripted server over sockets."""

    provider: OpenAIProvider
    server: ScriptedOpenAI

    def will_answer(self) -> None:
        """Script a body."""
        self.server.put(completion(TEXT))

    def will_stream(self) -> None:
        """Script a stream."""
        self.server.put(streamed_text(*WORDS))

    def will_stall(self) -> None:
        """Script half a stream."""
        self.server.put((*open_stream(*stream_events(())[:1]), Pause(Gate())))

    def will_think(self) -> None:
        """Script a pause."""
        self.server.put((Pause(Gate()),))

    async def was_asked_to_stop(self) -> None:
        """Wait for the end of the connection."""
        await (await self.server.request(1)).closed_at()


@pytest.fixture(params=["echo", pytest.param("openai", marks=pytest.mark.integration)])
async def stage(request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    """A provider, alone."""
    if request.param == "echo":
        yield EchoStage()
    else:
        server = ScriptedOpenAI()
        await server.start()
        transport = default_transport()
        config = OpenAIConfig(api_key=ApiKey("sk-test"), base_url=server.base_url)
        yield OpenAIStage(OpenAIProvider(config, transport, ManualClock()), server)
        await transport.aclose()
        await server.stop()
        assert transport.open_requests == 0


def request_for(text: str = TEXT, *, stream: bool = False) -> ProviderRequest:
    """Return a request whose last user message is the text. A stream request asks for usage."""
    message = Message("user", json.dumps({"role": "user", "content": text}).encode())
    asked = chat_request(stream=stream).with_messages((message,)).asking_for_usage()
    return ProviderRequest(ChatCompletions.name, asked.path, asked.model, asked.is_streaming, asked.body)


async def streamed(stage: Stage) -> ProviderStream:
    """Request a stream."""
    answer = await stage.provider.complete(request_for(stream=True))
    assert not isinstance(answer, ProviderBody)
    return answer


async def buffered(stage: Stage) -> ProviderBody:
    """Request a body."""
    answer = await stage.provider.complete(request_for())
    assert isinstance(answer, ProviderBody)
    return answer


async def test_a_buffered_request_gets_one_completion(stage: Stage) -> None:
    """The body is one JSON object that the domain can parse.

    The answer has one attempt and the provider's request id.
    """
    stage.will_answer()
    answer = await buffered(stage)
    assert json.loads(answer.body)["choices"][0]["message"]["content"] == TEXT
    summary = summary_of(answer.body)
    assert (summary.model, summary.finish_reason) == ("gpt-4o", "stop")
    assert summary.usage.total_tokens is not None
    assert answer.attempts == 1
    assert answer.provider_request_id


async def test_a_streaming_request_gets_events_that_end_with_done(stage: Stage) -> None:
    """No read is empty, each event's data matches its bytes, and the deltas form the whole text."""
    stage.will_stream()
    stream = await streamed(stage)
    reads = [list(events) async for events in stream]
    await stream.aclose()
    assert all(reads)
    *events, last = [event for read in reads for event in read]
    assert last.data == DONE
    assert events_of(*(event.raw for event in events)) == events
    chunks = [json.loads(event.data or b"") for event in events]
    assert "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]) == TEXT
    assert stream.attempts == 1
    assert stream.provider_request_id


async def test_a_stream_reports_usage_on_request(stage: Stage) -> None:
    """The response reader finds the usage and a complete end."""
    stage.will_stream()
    stream = await streamed(stage)
    fold = ChatResponseReader()
    async for events in stream:
        for event in events:
            fold.read_data(event.data or b"")
    await stream.aclose()
    assert stage.provider.dialect.asks_for_usage
    assert fold.summary().usage.total_tokens is not None
    assert (fold.is_complete, fold.failed) == (True, False)


@pytest.mark.parametrize("reads", [0, 1, 100])
async def test_a_stream_can_be_closed_at_any_time_and_twice(stage: Stage, reads: int) -> None:
    """The stream is closed before, between and after its events. The provider answers the next request."""
    stage.will_stream()
    stream = await streamed(stage)
    events = aiter(stream)
    for _ in range(reads):
        await anext(events, None)
    await stream.aclose()
    await stream.aclose()
    stage.will_answer()
    assert (await buffered(stage)).body


async def test_a_read_of_a_stalled_stream_can_be_cancelled(stage: Stage) -> None:
    """The stream can be closed afterwards, and the provider answers the next request."""
    stage.will_stall()
    stream = await streamed(stage)
    events = aiter(stream)
    assert await anext(events)
    reading = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.wait([reading])
    assert reading.cancelled()
    await stream.aclose()
    stage.will_answer()
    assert (await buffered(stage)).body


async def test_a_cancelled_request_stops_the_provider(stage: Stage) -> None:
    """The provider must not generate a response that has no reader."""
    stage.will_think()
    asking = asyncio.create_task(stage.provider.complete(request_for()))
    if isinstance(stage, OpenAIStage):
        await stage.server.request(1)
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait([asking])
    assert asking.cancelled()
    await stage.was_asked_to_stop()


async def test_requests_do_not_wait_for_each_other(stage: Stage) -> None:
    """An unread stream does not block another request."""
    stage.will_stream()
    stream = await streamed(stage)
    stage.will_answer()
    assert (await buffered(stage)).body
    assert [events async for events in stream]
    await stream.aclose()


async def test_the_repr_of_an_answer_does_not_contain_its_text(stage: Stage) -> None:
    """A log line may contain the repr."""
    stage.will_answer()
    shown = repr(await buffered(stage))
    stage.will_stream()
    stream = await streamed(stage)
    shown += repr([events async for events in stream])
    await stream.aclose()
    assert "drei" not in shown


async def test_a_provider_can_be_registered(stage: Stage) -> None:
    """The registry routes a model to the provider by its name and model patterns."""
    registry = ProviderRegistry([stage.provider])
    assert registry.route("gpt-4o", ChatCompletions.name) is stage.provider
    assert all(name == stage.provider.name for _, name in registry.patterns)


async def test_a_provider_lists_its_models(stage: Stage) -> None:
    """The list contains names of models and no patterns."""
    registry = ProviderRegistry([stage.provider])
    names = [model.id for model in await stage.provider.list_models()]
    assert registry.for_model("gpt-4o") is stage.provider
    assert "gpt-4o" in names
    assert not set(names) & set(stage.provider.models)
