"""Accepting connections, so that processes on one listening socket share them (ADR 0023)."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from ibex.adapters.telemetry.shared_memory import SharedMemorySegment

HESITATION_S: Final = 0.002
"""How long a process that has more connections than another lets that one accept; it may be dead, or frozen."""
PAUSE_S: Final = 0.1
"""How long nothing is accepted after the operating system had no room for another connection."""
LOG_INTERVAL_S: Final = 60.0
"""The minimum time between two warnings."""
_LOG: Final = logging.getLogger("ibex.serve")


class ConnectionBalancer:
    """What the processes on one socket tell each other: how many connections each has."""

    def __init__(self, regions: Sequence[SharedMemorySegment] = (), own: int = 0) -> None:
        """Take the regions of all, and which of them is this process's; none for a process that is alone."""
        self._own = regions[own] if regions else None
        self._others = [region for number, region in enumerate(regions) if number != own]

    def tell(self, connections: int) -> None:
        """Tell the others how many this process has."""
        if self._own is not None:
            self._own.connections = connections

    def is_ahead(self, connections: int) -> bool:
        """Tell whether another process has fewer; a place that nobody has taken yet does not count."""
        return any(region.connections < connections for region in self._others if region.pid)


class Served(asyncio.Protocol):
    """A protocol that can be told to end."""

    def shutdown(self) -> None:
        """Close the connection, or let what runs on it be its last."""


class Acceptor:
    """Accepts one connection a turn of the event loop; what ``asyncio.Server`` is, for ``uvicorn.Server``.

    An event loop's own server accepts all that wait at once, and a process that is at work wakes up before one that
    sleeps: a client's hundred connections are all in one process then, and stay there, beside others that are idle.
    """

    def __init__(
        self,
        listener: socket.socket,
        make_protocol: Callable[[], Served],
        share: ConnectionBalancer,
        connections: Callable[[], int],
        close_one: Callable[[], object] | None = None,
    ) -> None:
        """Take a listening socket, which the caller closes, and a function that counts the connections.

        ``close_one`` is called to close an unneeded connection if the system cannot accept another one.
        """
        self._listener = listener
        self._make_protocol = make_protocol
        self._share = share
        self._connections = connections
        self._close_one = close_one
        self._logged_at = -math.inf
        self._loop = asyncio.get_running_loop()
        self._connecting: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        listener.settimeout(0)
        self._resume()

    def close(self) -> None:
        """Accept nothing more. Idempotent."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._listener)

    async def wait_closed(self) -> None:
        """Return when what was accepted is in the hands of its protocol."""
        if self._connecting:
            await asyncio.wait(self._connecting)

    def _resume(self) -> None:
        self._timer = None
        self._loop.add_reader(self._listener, self._knocked)

    def _wait(self, seconds: float, then: Callable[[], None]) -> None:
        self._loop.remove_reader(self._listener)
        self._timer = self._loop.call_later(seconds, then)

    def _knocked(self) -> None:
        if self._share.is_ahead(self._number()):
            self._wait(HESITATION_S, self._nobody_came)
        else:
            self._accept()

    def _nobody_came(self) -> None:
        self._resume()
        self._accept()

    def _number(self) -> int:
        return self._connections() + len(self._connecting)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):  # another process was there first, or the client is gone
            return
        except OSError as error:
            self._make_room(error)
            return
        task = self._loop.create_task(self._connect(connection))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        self._share.tell(self._number())

    def _make_room(self, error: OSError) -> None:
        """Close an unneeded connection, and resume accepting after a pause."""
        now = self._loop.time()
        if now - self._logged_at >= LOG_INTERVAL_S:
            self._logged_at = now
            _LOG.warning("Cannot accept connections at the moment: %s", error.strerror)
        if self._close_one is not None:
            self._close_one()
        self._wait(PAUSE_S, self._resume)

    async def _connect(self, connection: socket.socket) -> None:
        try:
            # Event loops set TCP_NODELAY and O_NONBLOCK themselves.
            _, protocol = await self._loop.connect_accepted_socket(self._make_protocol, connection)
        except OSError:  # it broke before it began
            connection.close()
        else:
            if self._closed:  # the others were told before this one was there
                protocol.shutdown()
