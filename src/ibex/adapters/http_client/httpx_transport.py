"""httpx's own transport, made safe to cancel: for where the way to a provider needs a forward proxy, or HTTP/2."""

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

    Raises ``ValueError``, without the proxy's address, which may hold a password, if that is none, and ``ImportError``
    if ``http2`` is asked for and its library is missing.
    """
    # The pool itself is unlimited: a request that is cancelled while it waits for a place there can leave one taken.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=max_connections, keepalive_expiry=KEEPALIVE_S)
    try:
        inner = httpx.AsyncHTTPTransport(verify=True, limits=limits, http2=http2, proxy=environment_proxy(base_url))
    except (ValueError, httpx.InvalidURL):
        raise ValueError("the environment's proxy is none that can be used") from None
    return CancelSafeTransport(inner, max_connections)


def environment_proxy(base_url: str) -> str | None:
    """Return the proxy that ``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` mean for a URL, or None."""
    url = httpx.URL(base_url)
    if urllib.request.proxy_bypass(url.host):
        return None
    proxies = urllib.request.getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    return proxy if proxy is None or "://" in proxy else f"http://{proxy}"


class CancelSafeTransport(httpx.AsyncBaseTransport):
    """Runs another transport's work in tasks of its own, so that no cancellation, however often, cuts its cleaning up.

    httpcore awaits while it cleans up after a cancellation; a second one in that moment leaves a connection open and
    its place in the pool taken for ever. Here the caller's cancellation reaches the inner transport once.

    Promises: what was cancelled has its connection closed soon after; one request more than ``max_requests`` at a time
    raises ``httpx.PoolTimeout`` at once; ``aclose()`` returns when nothing is left running.
    """

    def __init__(self, inner: httpx.AsyncBaseTransport, max_requests: int) -> None:
        self._inner = inner
        self._max_requests = max_requests
        self._tasks: set[asyncio.Task[Any]] = set()
        self.open_requests = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and return its answer, whose stream must be closed; see ``httpx.AsyncBaseTransport``."""
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
        """Wait for what is being cleaned up, then close all connections."""
        await self.settle()
        await self._inner.aclose()

    async def settle(self) -> None:
        """Return once nothing is being sent, read or cleaned up."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run work whose end ``aclose`` waits for."""
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
                raise httpx.ReadError("closed while it was read") from None
            raise

    async def _close(self) -> None:
        if self._reading is not None:
            await _stop(self._reading)
        with suppress(Exception):  # the connection is gone either way, and nobody could do anything about it
            await self._inner.aclose()
        self._transport.open_requests -= 1


async def _next(chunks: AsyncIterator[bytes]) -> bytes | None:
    return await anext(chunks, None)


async def _stop(task: asyncio.Task[Any]) -> None:
    """Cancel a task and return when it has ended, however it did."""
    task.cancel()
    await asyncio.wait([task])
