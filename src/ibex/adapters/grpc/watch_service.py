"""The server side of the watch and of the pages of live tokens, in auth."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final
from uuid import UUID

from ibex.adapters.grpc.generated import auth_pb2
from ibex.adapters.grpc.watch_messages import page_response, watch_response
from ibex.domain.errors import FieldCode, FieldError, ServiceDegradedError, ValidationError
from ibex.domain.freshness.change_log import Events, StreamStart
from ibex.domain.freshness.token_filter import TokensUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ibex.domain.freshness.change_log import WatchMessage, WatchServer
    from ibex.domain.freshness.token_filter import LiveTokens

MAX_PAGE: Final = 10_000
MAX_CHANGES: Final = 500
"""Changes in one response, so that it stays far below the maximum message size."""
MAX_QUEUED: Final = 1_000
"""Responses queued for a slow worker. Beyond that, the stream ends, and the worker resumes from its last pong."""


class _WatchStream:
    """The server's end of one stream (a ``WatchClient``), with a queue of responses."""

    def __init__(self, max_queued: int) -> None:
        self.responses: asyncio.Queue[auth_pb2.WatchResponse | None] = asyncio.Queue()
        self._max_queued = max_queued
        self._owes_pong = False
        self._has_ended = False

    def send(self, message: WatchMessage) -> None:
        """Queue a message. End the stream if the queue is full, but never between events and their pong.

        The pong carries the position from which the worker resumes.
        """
        if self._has_ended:
            return
        if self.responses.qsize() >= self._max_queued and not self._owes_pong:
            self.end()
            return
        self._owes_pong = isinstance(message, Events | StreamStart)
        for response in _split(watch_response(message)):
            self.responses.put_nowait(response)

    def end(self) -> None:
        """End the stream after the queued responses. Idempotent."""
        if not self._has_ended:
            self._has_ended = True
            self.responses.put_nowait(None)


class WatchService:
    """Serves the streams of ``Watch`` from a ``WatchServer``, and ``TokenFilter`` from a ``LiveTokens``."""

    def __init__(self, server: WatchServer, live_tokens: LiveTokens, *, max_queued: int = MAX_QUEUED) -> None:
        self._server = server
        self._live_tokens = live_tokens
        self._max_queued = max_queued
        self._clients: set[_WatchStream] = set()

    async def watch(self, requests: AsyncIterator[auth_pb2.WatchRequest]) -> AsyncIterator[auth_pb2.WatchResponse]:
        """Serve one stream until either end closes it. Raises ``ValidationError`` if its first request is not open."""
        opening = await anext(requests, None)
        if opening is None or opening.WhichOneof("request") != "open":
            raise ValidationError((FieldError("open", FieldCode.REQUIRED, "must be the first request"),))
        client = _WatchStream(self._max_queued)
        self._clients.add(client)
        self._server.open(client, opening.open.position or None)
        reading = asyncio.ensure_future(self._read(client, requests))
        try:
            while (response := await client.responses.get()) is not None:
                yield response
        finally:
            self._server.close(client)
            self._clients.discard(client)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    def end_all(self) -> None:
        """End every stream, so that workers switch to another replica at once."""
        for client in self._clients:
            client.end()

    async def token_filter(self, request: auth_pb2.TokenFilterRequest) -> auth_pb2.TokenFilterResponse:
        """Return a page of live tokens, or their number if ``limit`` is 0.

        Raises ``ValidationError``, and ``ServiceDegradedError`` if the database is unavailable.
        """
        if request.limit > MAX_PAGE or len(request.after) not in (0, 16):
            raise ValidationError((FieldError("limit", FieldCode.INVALID_FORMAT, f"must be at most {MAX_PAGE}"),))
        try:
            if not request.limit:
                return auth_pb2.TokenFilterResponse(count=await self._live_tokens.count())
            after = UUID(bytes=request.after) if request.after else None
            return page_response(await self._live_tokens.page(after, request.limit))
        except TokensUnavailableError as error:
            raise ServiceDegradedError from error

    async def _read(self, client: _WatchStream, requests: AsyncIterator[auth_pb2.WatchRequest]) -> None:
        try:
            async for request in requests:
                if request.WhichOneof("request") == "ping":
                    self._server.ping(client, request.ping)
        finally:
            client.end()


def _split(response: auth_pb2.WatchResponse) -> list[auth_pb2.WatchResponse]:
    changes = response.events.changes
    if len(changes) <= MAX_CHANGES:
        return [response]
    return [
        auth_pb2.WatchResponse(events=auth_pb2.WatchResponse.Events(changes=changes[start : start + MAX_CHANGES]))
        for start in range(0, len(changes), MAX_CHANGES)
    ]
