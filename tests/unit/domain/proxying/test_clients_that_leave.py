"""Clients that disconnect at any moment: a call is cancelled at each of its suspensions, and at each pair of them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from harness.cancellation import Cut, Moment, Run, run_cut
from harness.chat_scene import DISK_FULL, ChatScene, ScriptedStream, chat_request, event
from ibex.domain.errors import ErrorCode, IbexError
from ibex.domain.provider_errors import ProviderUnavailableError
from ibex.domain.proxying.provider import ProviderBody
from ibex.domain.proxying.streaming import StreamedResponse

if TYPE_CHECKING:
    from collections.abc import Callable

    from ibex.domain.proxying.proxy_request import IncomingRequest, ProxyResponse

HEL = event(b'{"choices":[{"index":0,"delta":{"content":"Hel"},"finish_reason":null}]}')
LO = event(b'{"choices":[{"index":0,"delta":{"content":"lo"},"finish_reason":"stop"}]}')
USAGE = event(b'{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}')
DONE = event(b"[DONE]")
BODY = b'{"choices":[{"index":0,"finish_reason":"stop","message":{"content":"Hello"}}]}'


def buffered() -> ChatScene:
    """A scene with a buffered response."""
    return ChatScene(ProviderBody(BODY), chat_request())


def streamed() -> ChatScene:
    """A scene with a streamed response in three reads."""
    return ChatScene(ScriptedStream([[HEL], [LO], [USAGE, DONE]]), chat_request(stream=True))


def dying() -> ChatScene:
    """A scene whose provider loses its connection midway."""
    return ChatScene(ScriptedStream([[HEL], ProviderUnavailableError()]), chat_request(stream=True))


def refused() -> ChatScene:
    """A scene whose provider is not reachable."""
    return ChatScene(ProviderUnavailableError(), chat_request())


def unrecorded() -> ChatScene:
    """A scene with a streamed response and a journal whose disk is full."""
    scene = streamed()
    scene.journal.failure = DISK_FULL
    return scene


SCENES = {scene.__name__: scene for scene in (buffered, streamed, dying, refused, unrecorded)}


@dataclass(slots=True)
class Client:
    """A client that behaves like the HTTP adapter: it always closes its stream."""

    scene: ChatScene
    reply: ProxyResponse | None = None
    received: bytes = b""
    error: IbexError | None = None

    async def run(self) -> None:
        """Call, read the whole response, close."""
        call = self.scene.call()
        try:
            await self._run(call)
        finally:
            call.reservation.release()

    async def _run(self, call: IncomingRequest) -> None:
        try:
            self.reply = await self.scene.use_case()(call)
        finally:
            assert self.scene.capacity.body_bytes.in_use == 0  # the body is no longer needed
        if not isinstance(self.reply, StreamedResponse):
            return
        try:
            async for chunk in self.reply:
                self.received += chunk
        except IbexError as error:
            self.error = error
        finally:
            await self.reply.aclose()


async def cut_run(make: Callable[[], ChatScene], *cuts: Cut) -> tuple[Client, Run]:
    """Run one client to its end or its cancellation, and wait for the recording."""
    client = Client(make())
    run = await run_cut(client.run, *cuts)
    await client.scene.recorder.drain()
    return client, run


def assert_nothing_is_left(client: Client, run: Run) -> None:
    """Assert the conditions that hold however a call ended."""
    scene = client.scene
    assert run.complaints == []
    assert (scene.capacity.authenticating, len(scene.capacity.slots), len(scene.capacity.body_bytes)) == (0, 0, 0)
    assert run.tasks_left == []
    assert len(scene.observer.exchanges) == 1
    assert scene.journaled is (scene.exchange.caller is not None and scene.journal.failure is None)
    assert scene.exchange.emitter_seq == (0 if scene.exchange.caller is None else 1)
    upstream = scene.provider.answer
    if isinstance(upstream, ScriptedStream):
        assert upstream.closed == scene.provider.handed_out
    assert scene.provider.cancelled + scene.provider.handed_out <= 1


def assert_the_record_is_true(client: Client, run: Run) -> None:
    """Assert that the exchange is complete only if the response was, and otherwise has the right error."""
    scene, exchange = client.scene, client.scene.exchange
    assert exchange.reached_provider is bool(scene.provider.asked)
    if exchange.is_complete:
        assert exchange.error_code is None
        assert exchange.summary.completion_hash is not None
    else:
        assert exchange.error_code in {ErrorCode.CLIENT_CLOSED_REQUEST, ErrorCode.PROVIDER_UNAVAILABLE}
        assert b"[DONE]" not in client.received
    if exchange.error_code is ErrorCode.CLIENT_CLOSED_REQUEST:
        assert run.was_cancelled
        assert exchange.status == 499


@pytest.mark.parametrize("moment", Moment)
@pytest.mark.parametrize("scene", SCENES)
async def test_a_client_can_disconnect_at_every_suspension(scene: str, moment: Moment) -> None:
    """Upstream is stopped, one exchange is recorded, no task is left, and no error is reported."""
    codes = set()
    for suspension in itertools.count(1):
        client, run = await cut_run(SCENES[scene], Cut(suspension, moment))
        assert_nothing_is_left(client, run)
        assert_the_record_is_true(client, run)
        codes.add(client.scene.exchange.error_code)
        if run.cuts_reached == 0:
            break
        assert run.was_cancelled

    assert suspension > 8
    assert ErrorCode.CLIENT_CLOSED_REQUEST in codes


async def cuts_after(scene: Callable[[], ChatScene], first: int) -> int:
    """Cut at ``first`` and at every suspension after it; return how many of these pairs there are."""
    for second in itertools.count(first + 1):
        client, run = await cut_run(scene, Cut(first), Cut(second))
        assert_nothing_is_left(client, run)
        assert_the_record_is_true(client, run)
        if run.cuts_reached < 2:
            return run.cuts_reached and second - first
    raise AssertionError


@pytest.mark.parametrize("scene", SCENES)
async def test_a_client_can_be_cancelled_twice(scene: str) -> None:
    """A second cancellation, during the recording or the closing of upstream, only ends the wait."""
    for first in itertools.count(1):
        if not await cuts_after(SCENES[scene], first):
            break

    assert first > 8


@pytest.mark.parametrize("scene", [buffered, streamed])
async def test_a_call_without_a_cancellation_is_complete(scene: Callable[[], ChatScene]) -> None:
    """The same calls succeed, so the test harness itself changes nothing."""
    client, run = await cut_run(scene)

    assert_nothing_is_left(client, run)
    assert client.scene.exchange.is_complete
    assert not run.was_cancelled


async def test_a_complete_exchange_stays_complete_when_its_client_disconnects() -> None:
    """The response is complete while [DONE] is being recorded, so a disconnect is not recorded then (ADR 0005)."""
    outcomes = []
    for suspension in itertools.count(1):
        client, run = await cut_run(streamed, Cut(suspension))
        if run.cuts_reached == 0:
            break
        outcomes.append(client.scene.exchange.is_complete)

    assert outcomes == sorted(outcomes)
    assert outcomes[0] is False
    assert outcomes[-1] is True
