"""A wrapper that makes httpx's transport safe to cancel. It is used with a forward proxy, or for HTTP/2."""

from __future__ import annotations

import asyncio
import urllib.request
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import httpx

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

T = TypeVar("T")

KEEPALIVE_S: Final = 30.0


def httpx_transport(base_url: str, max_connections: int, *, http2: bool = False) -> CancelSafeTransport:
    """Return a transport with one pool: TLS verified, no redirects, no cookies, the environment's proxy for that URL.

    Raises ``ValueError`` for an invalid proxy URL (the message omits the URL, which may contain a password), and
    ``ImportError`` if ``http2`` is true and its library is missing.
    """
    # The inner pool is unlimited, because a request that is cancelled while it waits there can leak a slot.
    # ``CancelSafeTransport`` enforces the limit.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=max_connections, keepalive_expiry=KEEPALIVE_S)
    try:
        inner = httpx.AsyncHTTPTransport(verify=True, limits=limits, http2=http2, proxy=environment_proxy(base_url))
    except (ValueError, httpx.InvalidURL):
        raise ValueError("invalid proxy URL in the environment (HTTPS_PROXY, HTTP_PROXY or ALL_PROXY)") from None
    return CancelSafeTransport(inner, max_connections)


def environment_proxy(base_url: str) -> str | None:
    """Return the proxy that ``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` set for a URL, or None."""
    url = httpx.URL(base_url)
    if urllib.request.proxy_bypass(url.host):
        return None
    proxies = urllib.request.getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    return proxy if proxy is None or "://" in proxy else f"http://{proxy}"


class CancelSafeTransport(httpx.AsyncBaseTransport):
    """A transport that runs another transport in separate tasks, so that a cancellation cannot interrupt its clean-up.

    httpcore awaits while it cleans up after a cancellation. A second cancellation at that moment leaves the connection
    open and leaks its slot in the pool. With this class, the inner transport receives the cancellation only once.

    A cancelled request has its connection closed soon after. A request beyond ``max_requests`` raises
    ``httpx.PoolTimeout`` at once. ``aclose()`` returns once no task is left running.
    """

    def __init__(self, inner: httpx.AsyncBaseTransport, max_requests: int) -> None:
        self._inner = inner
        self._max_requests = max_requests
        self._tasks: set[asyncio.Task[Any]] = set()
        self.open_requests = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and return its response, whose stream must be closed; see ``httpx.AsyncBaseTransport``."""
        if self.open_requests >= self._max_requests:
            raise httpx.PoolTimeout("all connections are in use", request=request)
        self.open_requests += 1
        sending = self.start(self._inner.handle_async_request(request))
        try:
            response = await asyncio.shield(sending)
        except BaseException:
            if sending.done() and not sending.cancelled() and sending.exception() is not None:
                self.open_requests -= 1
            else:
                self.start(self._abandon(sending))
            raise
        inner = cast("httpx.AsyncByteStream", response.stream)
        response.stream = _CancelSafeStream(inner, self)
        return response

    async def aclose(self) -> None:
        """Wait for running tasks, then close all connections."""
        await self.settle()
        await self._inner.aclose()

    async def settle(self) -> None:
        """Wait until no task sends, reads or cleans up."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine in a task that ``aclose`` waits for."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _abandon(self, sending: asyncio.Task[httpx.Response]) -> None:
        await _stop(sending)
        if not sending.cancelled() and sending.exception() is None:
            with suppress(Exception):
                await cast("httpx.AsyncByteStream", sending.result().stream).aclose()
        self.open_requests -= 1


class _CancelSafeStream(httpx.AsyncByteStream):
    def __init__(self, inner: httpx.AsyncByteStream, transport: CancelSafeTransport) -> None:
        self._inner = inner
        self._transport = transport
        self._reading: asyncio.Task[bytes | None] | None = None
        self._closing: asyncio.Task[None] | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunks = aiter(self._inner)
        while True:
            chunk = await self._read(chunks)
            if chunk is None:
                return
            yield chunk

    async def aclose(self) -> None:
        if self._closing is None:
            self._closing = self._transport.start(self._close())
        await asyncio.shield(self._closing)

    async def _read(self, chunks: AsyncIterator[bytes]) -> bytes | None:
        reading = self._reading = self._transport.start(_next(chunks))
        try:
            return await asyncio.shield(reading)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if reading.cancelled() and task is not None and not task.cancelling():
                raise httpx.ReadError("the response was closed while it was read") from None
            raise

    async def _close(self) -> None:
        if self._reading is not None:
            await _stop(self._reading)
        with suppress(Exception):  # the connection is closed either way, and the caller cannot handle the error
            await self._inner.aclose()
        self._transport.open_requests -= 1


async def _next(chunks: AsyncIterator[bytes]) -> bytes | None:
    return await anext(chunks, None)


async def _stop(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait until it has ended, with or without an error."""
    task.cancel()
    await asyncio.wait([task])
