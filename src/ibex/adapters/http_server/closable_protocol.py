"""The graceful end of a client connection, when its process or its worker ends (ADR 0060)."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ibex.adapters.http_server.connections import MAX_DISCARDED_BYTES, Reading

if TYPE_CHECKING:
    import asyncio

    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from ibex.adapters.http_server.connections import ConnectionTable, State, Tracked


class ClosableHttpProtocol(HttpToolsProtocol):
    """A connection that ends without the loss of a request.

    While the worker drains, each response carries ``Connection: close``, and the next request comes on another
    connection. At the end of the drain delay, ``shutdown`` closes connections that are idle. A client that has just
    sent a request on one of them could not tell whether it was processed, so ``shutdown`` looks for unread data first.
    """

    state: State | None
    _table: ConnectionTable
    _running: RequestResponseCycle | None
    _reading: int
    _read: bytes
    _discarded_bytes = 0

    def announce_close(self) -> None:
        """Announce in the head of the running response that the connection closes, unless the head has been sent."""
        running = self._running
        if running is not None and not running.response_started and not self.pipeline:
            running.keep_alive = False

    def shutdown(self) -> None:
        """Close the connection, but after the responses to the requests on it.

        A connection with a part of a request, or with unread data, stays until its request is answered. A new one stays
        for its first request until ``close_if_silent``.
        """
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.keep_alive = False
        elif self.state is not self._table.new:
            self._close_if_nothing_arrived()

    def close_if_silent(self) -> None:
        """Close the connection if nothing of a request has arrived."""
        if self._running is None:
            self._close_if_nothing_arrived()

    def _close_if_nothing_arrived(self) -> None:
        if self._reading == Reading.NOTHING_YET and not _has_unread_data(self.transport):
            self.transport.close()

    def _linger(self) -> None:
        """Half-close, and discard what the client still sends.

        Closing at once would send a reset to a client that is still writing, which can destroy the unread response.
        """
        self._discard()
        self._table.enter(cast("Tracked", self), self._table.lingering)
        self.transport.write_eof()

    def _discard(self) -> None:
        self._reading = Reading.DISCARDED
        self._read = b""
        self.pipeline.clear()
        self.flow.resume_reading()

    def _count_discarded(self, size: int) -> None:
        """Limit the discarded bytes of the connection in total, and those of the worker in each second."""
        self._discarded_bytes += size
        if self._discarded_bytes > MAX_DISCARDED_BYTES:
            self.transport.abort()
        elif not self.transport.is_closing():
            self._table.discarding.count(size, self.transport)


def _has_unread_data(transport: asyncio.Transport) -> bool:
    """Return whether the system has data, or the end of the stream, that the event loop has not read yet."""
    connected = transport.get_extra_info("socket")
    if connected is None:
        return False
    poll = select.poll()
    poll.register(connected.fileno(), select.POLLIN)
    return bool(poll.poll(0))
