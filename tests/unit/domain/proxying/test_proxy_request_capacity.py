"""A request holds its organization's slot and the bytes of its body only as long as it needs them."""

from __future__ import annotations

import pytest

from harness.chat_scene import BODY_BYTES, ORG, OTHER_ORG, ChatScene, ScriptedStream, chat_request
from ibex.domain.errors import OverloadedError
from ibex.domain.proxying.capacity import Capacity, Reservation
from ibex.domain.proxying.provider import ProviderBody
from ibex.domain.proxying.proxy_request import BufferedResponse, RefusedResponse
from ibex.domain.proxying.streaming import StreamedResponse

BODY = b'{"choices":[{"index":0,"finish_reason":"stop","message":{"content":"Hello"}}]}'


def scene_of() -> ChatScene:
    """Return a scene with a buffered response."""
    return ChatScene(ProviderBody(BODY), chat_request())


async def test_an_organization_without_a_free_slot_is_refused() -> None:
    """Its body is not read. The request is counted, and the refusal is recorded."""
    scene = scene_of()
    scene.capacity = Capacity(slots=4, body_bytes=1 << 20, max_authenticating=1)
    others = [Reservation(scene.capacity) for _ in range(3)]
    for other in others:
        other.take_slot(ORG)

    reply = await scene.use_case()(scene.call())

    assert isinstance(reply, RefusedResponse)
    assert isinstance(reply.error, OverloadedError)
    assert reply.error.retry_after_s == 1
    assert (scene.body.reads, len(scene.rate_limiter.counted), scene.provider.asked) == (0, 1, [])
    assert (scene.exchange.error_code, scene.exchange.reached_provider) == ("OVERLOADED", False)
    assert scene.exchange.caller is not None
    assert scene.journaled
    assert (scene.capacity.slots.in_use, scene.capacity.authenticating) == (3, 0)

    scene.observer.exchanges.clear()
    for other in others:
        other.release()
    assert isinstance(await scene.use_case()(scene.call()), BufferedResponse)


async def test_another_organization_still_gets_a_slot() -> None:
    """A quarter of the slots is reserved."""
    scene = scene_of()
    scene.capacity = Capacity(slots=4, body_bytes=1 << 20, max_authenticating=1)
    for _ in range(3):
        Reservation(scene.capacity).take_slot(OTHER_ORG)

    assert isinstance(await scene.use_case()(scene.call()), BufferedResponse)


async def test_a_request_beyond_the_authentication_limit_is_refused() -> None:
    """It is refused before any lookup. Its organization is unknown, so it is not recorded."""
    scene = scene_of()
    scene.capacity = Capacity(slots=4, body_bytes=1 << 20, max_authenticating=1)
    scene.capacity.begin_authentication()

    reply = await scene.use_case()(scene.call())

    assert isinstance(reply, RefusedResponse)
    assert isinstance(reply.error, OverloadedError)
    assert (scene.tokens.asked, scene.rate_limiter.counted) == ([], [])
    assert not scene.journaled
    assert scene.capacity.slots.in_use == 0

    scene.observer.exchanges.clear()
    scene.capacity.end_authentication()
    assert isinstance(await scene.use_case()(scene.call()), BufferedResponse)


@pytest.mark.parametrize("streams", [False, True])
async def test_a_body_is_released_when_the_provider_has_answered(*, streams: bool) -> None:
    """It is kept until then, because the request may be retried. The slot is held until the response is written."""
    stream = ScriptedStream([])
    scene = ChatScene(stream, chat_request(stream=True)) if streams else scene_of()
    held: list[tuple[int, int]] = []
    scene.provider.on_asked = lambda: held.append((scene.capacity.slots.in_use, scene.capacity.body_bytes.in_use))

    call = scene.call()
    reply = await scene.use_case()(call)

    assert held == [(1, BODY_BYTES)]
    assert (scene.capacity.slots.in_use, scene.capacity.body_bytes.in_use) == (1, 0)
    if isinstance(reply, StreamedResponse):
        await reply.aclose()
    call.reservation.release()
    assert scene.capacity.slots.in_use == 0
