"""Tests of the transport over httpx, with an inner transport that awaits while it cleans up, as httpcore does."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from harness.cancellation import Cut, Moment, run_cut
from harness.chat_scene import pause
from harness.upstream import HUSH, FakeTransport, buffered, streamed
from ibex.adapters.http_client.httpx_transport import CancelSafeTransport, environment_proxy, httpx_transport


class AwaitingTransport(httpx.AsyncBaseTransport):
    """A transport that holds a slot until its close, and awaits before it releases the slot, as a pool does."""

    def __init__(self, inner: FakeTransport) -> None:
        self._inner = inner
        self.places_taken = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Take a slot."""
        self.places_taken += 1
        try:
            response = await self._inner.handle_async_request(request)
        except BaseException:
            await self.release_slot()
            raise
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _Stream(response.stream, self)
        return response

    async def release_slot(self) -> None:
        """Release the slot after a while."""
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
            await self._transport.release_slot()


def request() -> httpx.Request:
    """Return a request."""
    return httpx.Request("POST", "http://provider.example/v1/chat/completions", content=b"{}")


async def exchange(transport: httpx.AsyncBaseTransport) -> bytes:
    """Send a request and read the whole response."""
    response = await transport.handle_async_request(request())
    assert isinstance(response.stream, httpx.AsyncByteStream)
    try:
        return b"".join([chunk async for chunk in response.stream])
    finally:
        await response.stream.aclose()


async def test_a_response_passes_through_unchanged() -> None:
    """Status, headers, bytes and extensions are those of the inner transport."""
    transport = CancelSafeTransport(FakeTransport(streamed(b"a", b"b")), 1)
    response = await transport.handle_async_request(request())
    assert (response.status_code, response.headers["content-type"]) == (200, "text/event-stream")
    assert "network_stream" in response.extensions
    assert isinstance(response.stream, httpx.AsyncByteStream)
    assert [chunk async for chunk in response.stream] == [b"a", b"b"]
    await response.stream.aclose()
    assert transport.open_requests == 0


async def test_a_failure_passes_through_unchanged() -> None:
    """It releases its slot."""
    transport = CancelSafeTransport(FakeTransport(httpx.ConnectError("refused")), 1)
    with pytest.raises(httpx.ConnectError, match="refused"):
        await exchange(transport)
    await transport.aclose()
    assert transport.open_requests == 0


async def test_a_failure_within_a_body_passes_through_unchanged() -> None:
    """The data before it is read first."""
    transport = CancelSafeTransport(FakeTransport(streamed(b"a", httpx.ReadError("reset"))), 1)
    with pytest.raises(httpx.ReadError, match="reset"):
        await exchange(transport)
    assert transport.open_requests == 0


async def test_a_request_beyond_the_limit_is_refused_immediately() -> None:
    """It does not queue. A released slot can be taken again."""
    transport = CancelSafeTransport(FakeTransport(streamed(b"a"), buffered()), 1)
    first = await transport.handle_async_request(request())
    with pytest.raises(httpx.PoolTimeout):
        await transport.handle_async_request(request())
    assert isinstance(first.stream, httpx.AsyncByteStream)
    await first.stream.aclose()
    assert await exchange(transport)


@pytest.mark.parametrize("outcome", [buffered(), streamed(b"a", HUSH), HUSH, httpx.ConnectError("x")])
@pytest.mark.parametrize("moment", list(Moment))
async def test_no_cancellation_leaks_a_slot(outcome: object, moment: Moment) -> None:
    """Cancel at each wait and again at the next one: the inner transport still completes its clean-up."""
    for suspension in range(1, 9):
        inner = AwaitingTransport(FakeTransport(outcome))  # type: ignore[arg-type]  # a parameter of several types
        transport = CancelSafeTransport(inner, 1)

        async def talk(transport: CancelSafeTransport = transport) -> None:
            async with asyncio.timeout(0.05):
                await exchange(transport)

        try:
            run = await run_cut(talk, Cut(suspension, moment), Cut(suspension + 1, moment))
        except (TimeoutError, httpx.ConnectError):
            pass
        else:
            assert (run.complaints, run.tasks_left) == ([], [])
        await transport.aclose()
        assert (inner.places_taken, transport.open_requests) == (0, 0)


@pytest.mark.parametrize("outcome", [HUSH, streamed(b"a", HUSH)])
async def test_repeated_cancellations_leak_no_slot(outcome: object) -> None:
    """Cancel in each cycle of the loop, also during the clean-up after the first cancellation."""
    inner = AwaitingTransport(FakeTransport(outcome))  # type: ignore[arg-type]  # a parameter of several types
    transport = CancelSafeTransport(inner, 1)
    talking = asyncio.create_task(exchange(transport))
    for _ in range(20):
        await asyncio.sleep(0)
    assert inner.places_taken == 1
    while not talking.done():
        talking.cancel()
        await asyncio.sleep(0)
    await transport.aclose()
    assert (inner.places_taken, transport.open_requests) == (0, 0)


async def test_closing_waits_for_the_clean_up_of_requests() -> None:
    """The inner transport is closed after that."""
    fake = FakeTransport(HUSH)
    inner = AwaitingTransport(fake)
    transport = CancelSafeTransport(inner, 1)
    talking = asyncio.create_task(exchange(transport))
    await pause()
    talking.cancel()
    await asyncio.wait([talking])
    await transport.aclose()
    assert (fake.cancelled, inner.places_taken) == (1, 0)


async def test_closing_a_stream_ends_a_waiting_read() -> None:
    """A reader in another task gets an error, because it was not cancelled itself."""
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


async def test_a_transport_opens_no_connection_before_the_first_request() -> None:
    """It can be created at start and closed unused."""
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
def test_the_proxy_is_read_from_the_environment(
    environment: dict[str, str], proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the proxy for the URL's scheme, else the one for all schemes, unless the host is excluded."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert environment_proxy("https://provider.example/v1") == proxy


def test_an_invalid_proxy_url_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error omits the URL, which may contain a password."""
    monkeypatch.setenv("https_proxy", "gopher://user:canary@proxy.example")
    with pytest.raises(ValueError, match="proxy") as raised:
        httpx_transport("https://provider.example/v1", 5)
    assert "canary" not in str(raised.value)
