"""What the transport over httpx promises, over an inner transport that cleans up as httpcore does: awaiting."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from harness.cancellation import Cut, Moment, run_cut
from harness.chat_scene import pause
from harness.upstream import HUSH, FakeTransport, buffered, streamed
from ibex.adapters.http_client.httpx_transport import CancelSafeTransport, environment_proxy, httpx_transport


class AwaitingTransport(httpx.AsyncBaseTransport):
    """Holds a place from the request to its close; gives it back only after some waiting, as a pool does."""

    def __init__(self, inner: FakeTransport) -> None:
        self._inner = inner
        self.places_taken = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Take a place."""
        self.places_taken += 1
        try:
            response = await self._inner.handle_async_request(request)
        except BaseException:
            await self.give_back()
            raise
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _Stream(response.stream, self)
        return response

    async def give_back(self) -> None:
        """Give the place back, in a while."""
        await pause()
        await pause()
        self.places_taken -= 1


class _Stream(httpx.AsyncByteStream):
    def __init__(self, inner: httpx.AsyncByteStream, transport: AwaitingTransport) -> None:
        self._inner = inner
        self._transport = transport
        self._closed = False

    async def __aiter__(self):  # type: ignore[no-untyped-def]  # noqa: ANN204 - an async generator, by its base
        try:
            async for chunk in self._inner:
                yield chunk
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            await self._transport.give_back()


def request() -> httpx.Request:
    """Return some request."""
    return httpx.Request("POST", "http://provider.example/v1/chat/completions", content=b"{}")


async def converse(transport: httpx.AsyncBaseTransport) -> bytes:
    """Send a request and read its whole answer."""
    response = await transport.handle_async_request(request())
    assert isinstance(response.stream, httpx.AsyncByteStream)
    try:
        return b"".join([chunk async for chunk in response.stream])
    finally:
        await response.stream.aclose()


async def test_an_answer_passes_through_unchanged() -> None:
    """Status, headers, bytes and extensions."""
    transport = CancelSafeTransport(FakeTransport(streamed(b"a", b"b")), 1)
    response = await transport.handle_async_request(request())
    assert (response.status_code, response.headers["content-type"]) == (200, "text/event-stream")
    assert "network_stream" in response.extensions
    assert isinstance(response.stream, httpx.AsyncByteStream)
    assert [chunk async for chunk in response.stream] == [b"a", b"b"]
    await response.stream.aclose()
    assert transport.open_requests == 0


async def test_a_failure_passes_through_unchanged() -> None:
    """And takes no place."""
    transport = CancelSafeTransport(FakeTransport(httpx.ConnectError("refused")), 1)
    with pytest.raises(httpx.ConnectError, match="refused"):
        await converse(transport)
    await transport.aclose()
    assert transport.open_requests == 0


async def test_a_failure_within_a_body_passes_through_unchanged() -> None:
    """After what came before it."""
    transport = CancelSafeTransport(FakeTransport(streamed(b"a", httpx.ReadError("reset"))), 1)
    with pytest.raises(httpx.ReadError, match="reset"):
        await converse(transport)
    assert transport.open_requests == 0


async def test_one_request_too_many_is_refused_at_once() -> None:
    """It does not queue; a place that is given back can be taken again."""
    transport = CancelSafeTransport(FakeTransport(streamed(b"a"), buffered()), 1)
    first = await transport.handle_async_request(request())
    with pytest.raises(httpx.PoolTimeout):
        await transport.handle_async_request(request())
    assert isinstance(first.stream, httpx.AsyncByteStream)
    await first.stream.aclose()
    assert await converse(transport)


@pytest.mark.parametrize("answer", [buffered(), streamed(b"a", HUSH), HUSH, httpx.ConnectError("x")])
@pytest.mark.parametrize("moment", list(Moment))
async def test_no_cancellation_keeps_a_place(answer: object, moment: Moment) -> None:
    """Cut at every wait and again at the next: the inner transport's cleaning up runs to its end."""
    for suspension in range(1, 9):
        inner = AwaitingTransport(FakeTransport(answer))  # type: ignore[arg-type]  # a parameter of several types
        transport = CancelSafeTransport(inner, 1)

        async def talk(transport: CancelSafeTransport = transport) -> None:
            async with asyncio.timeout(0.05):
                await converse(transport)

        try:
            run = await run_cut(talk, Cut(suspension, moment), Cut(suspension + 1, moment))
        except (TimeoutError, httpx.ConnectError):
            pass
        else:
            assert (run.complaints, run.tasks_left) == ([], [])
        await transport.aclose()
        assert (inner.places_taken, transport.open_requests) == (0, 0)


@pytest.mark.parametrize("answer", [HUSH, streamed(b"a", HUSH)])
async def test_cancelling_again_and_again_keeps_no_place(answer: object) -> None:
    """Each turn of the loop brings another cancellation, also while the first one's cleaning up is under way."""
    inner = AwaitingTransport(FakeTransport(answer))  # type: ignore[arg-type]  # a parameter of several types
    transport = CancelSafeTransport(inner, 1)
    talking = asyncio.create_task(converse(transport))
    for _ in range(20):
        await asyncio.sleep(0)
    assert inner.places_taken == 1
    while not talking.done():
        talking.cancel()
        await asyncio.sleep(0)
    await transport.aclose()
    assert (inner.places_taken, transport.open_requests) == (0, 0)


async def test_closing_waits_for_what_is_being_cleaned_up() -> None:
    """Then the inner transport is closed."""
    fake = FakeTransport(HUSH)
    inner = AwaitingTransport(fake)
    transport = CancelSafeTransport(inner, 1)
    talking = asyncio.create_task(converse(transport))
    await pause()
    talking.cancel()
    await asyncio.wait([talking])
    await transport.aclose()
    assert (fake.cancelled, inner.places_taken) == (1, 0)


async def test_closing_a_stream_ends_a_read_that_waits() -> None:
    """Whoever closes need not be whoever reads; the reader was not cancelled, so it is told of a failure."""
    transport = CancelSafeTransport(FakeTransport(streamed(b"a", HUSH)), 1)
    response = await transport.handle_async_request(request())
    assert isinstance(response.stream, httpx.AsyncByteStream)
    chunks = aiter(response.stream)
    assert await anext(chunks) == b"a"
    reading = asyncio.ensure_future(anext(chunks))
    await pause()
    await response.stream.aclose()
    with pytest.raises(httpx.ReadError):
        await reading
    assert transport.open_requests == 0


async def test_it_opens_nothing_until_it_is_asked() -> None:
    """It can be made at start and closed unused."""
    transport = httpx_transport("https://provider.example/v1", 5)
    await transport.aclose()
    assert transport.open_requests == 0


@pytest.mark.parametrize(
    ("environment", "proxy"),
    [
        ({}, None),
        ({"https_proxy": "http://proxy.example:3128"}, "http://proxy.example:3128"),
        ({"http_proxy": "http://proxy.example:3128"}, None),
        ({"all_proxy": "proxy.example:3128"}, "http://proxy.example:3128"),
        ({"https_proxy": "http://proxy.example:3128", "no_proxy": "provider.example"}, None),
        ({"https_proxy": "http://proxy.example:3128", "no_proxy": "other.example"}, "http://proxy.example:3128"),
    ],
)
def test_the_proxy_of_the_environment(
    environment: dict[str, str], proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one for the URL's scheme, else the one for all, unless the host is excepted."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert environment_proxy("https://provider.example/v1") == proxy


def test_a_proxy_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told without its address, which may hold a password."""
    monkeypatch.setenv("https_proxy", "gopher://user:canary@proxy.example")
    with pytest.raises(ValueError, match="proxy") as raised:
        httpx_transport("https://provider.example/v1", 5)
    assert "canary" not in str(raised.value)
