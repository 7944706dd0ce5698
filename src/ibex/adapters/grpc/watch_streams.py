"""The client side of the watch and of the pages of live tokens, in a worker."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import grpc

from ibex.adapters.grpc.generated import auth_pb2
from ibex.adapters.grpc.statuses import CallFailedError
from ibex.adapters.grpc.watch_messages import page_in, watch_message_in
from ibex.domain.freshness.token_filter import TokensUnavailableError
from ibex.domain.freshness.watch import StreamLostError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from uuid import UUID

    from ibex.adapters.grpc.channel import GrpcAuthChannel
    from ibex.domain.freshness.change_log import WatchMessage
    from ibex.domain.freshness.token_filter import TokensPage

PAGE_TIMEOUT_S: Final = 30.0


class _Stream:
    """The worker's end of one stream."""

    def __init__(self, call: Any, requests: asyncio.Queue[auth_pb2.WatchRequest]) -> None:
        self._call = call
        self._requests = requests

    def ping(self, number: int) -> None:
        self._requests.put_nowait(auth_pb2.WatchRequest(ping=number))

    async def __aiter__(self) -> AsyncIterator[WatchMessage]:
        try:
            async for response in self._call:
                yield watch_message_in(response)
        except (grpc.aio.AioRpcError, grpc.aio.UsageError, ValueError):
            raise StreamLostError from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise StreamLostError from None  # the channel was closed during the stream
        raise StreamLostError


class GrpcWatch:
    """A ``WatchConnector``. Each stream goes to the next replica."""

    def __init__(self, channel: GrpcAuthChannel) -> None:
        self._channel = channel

    @asynccontextmanager
    async def open(self, position: str | None) -> AsyncIterator[_Stream]:
        """Open a stream; see ``WatchConnector``."""
        requests: asyncio.Queue[auth_pb2.WatchRequest] = asyncio.Queue()
        opening = auth_pb2.WatchRequest.Open(position=position or "")
        requests.put_nowait(auth_pb2.WatchRequest(open=opening))
        try:
            call = self._channel.watch(_requests_from(requests))
        except CallFailedError:
            raise StreamLostError from None
        try:
            yield _Stream(call, requests)
        finally:
            call.cancel()


async def _requests_from(requests: asyncio.Queue[auth_pb2.WatchRequest]) -> AsyncIterator[auth_pb2.WatchRequest]:
    while True:
        yield await requests.get()


class GrpcLiveTokens:
    """A ``LiveTokens`` that calls auth."""

    def __init__(self, channel: GrpcAuthChannel) -> None:
        self._channel = channel

    async def count(self) -> int:
        """Return the number of live tokens; see ``LiveTokens``."""
        return (await self._call(auth_pb2.TokenFilterRequest())).count

    async def page(self, after: UUID | None, limit: int) -> TokensPage:
        """Return a page of live tokens; see ``LiveTokens``."""
        request = auth_pb2.TokenFilterRequest(after=b"" if after is None else after.bytes, limit=limit)
        try:
            return page_in(await self._call(request))
        except ValueError:
            raise TokensUnavailableError("auth sent an incomplete page of token ids") from None

    async def _call(self, request: auth_pb2.TokenFilterRequest) -> auth_pb2.TokenFilterResponse:
        try:
            return await self._channel.token_filter(request, PAGE_TIMEOUT_S)
        except CallFailedError as failed:
            raise TokensUnavailableError(f"cannot read the live tokens ({failed})") from failed
