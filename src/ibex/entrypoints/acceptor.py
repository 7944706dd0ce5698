"""Accepting connections, and balancing them between the workers on one listening socket (ADR 0023)."""

from __future__ import annotations

import asyncio
import errno
import logging
import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from ibex.adapters.telemetry.shared_memory import SharedMemorySegment

YIELD_S: Final = 0.002
"""The delay before a worker accepts a connection that another should take. The other may be dead or frozen."""
PAUSE_S: Final = 0.1
"""The pause after the operating system could not accept another connection, for example for lack of descriptors."""
LOG_INTERVAL_S: Final = 60.0
"""The minimum time between two warnings."""
NOT_ACCEPTING: Final = 1 << 40
"""The number of connections that a worker publishes once it accepts no more."""
_LOG: Final = logging.getLogger("ibex.serve")


class ConnectionBalancer:
    """Shares the number of connections of each worker, so that new ones go to the worker with the fewest."""

    def __init__(self, segments: Sequence[SharedMemorySegment] = (), own: int = 0) -> None:
        """Use the segment with the index ``own`` for this worker. A single process passes no segments."""
        self._own = segments[own] if segments else None
        self._others = [segment for number, segment in enumerate(segments) if number != own]
        self._has_left = False

    def publish(self, connections: int) -> None:
        """Set the number of connections of this worker, unless it has left."""
        if self._own is not None and not self._has_left:
            self._own.connections = connections

    def leave(self) -> None:
        """Leave all new connections to the other workers."""
        self.publish(NOT_ACCEPTING)
        self._has_left = True

    def is_ahead(self, connections: int) -> bool:
        """Return whether another worker has fewer connections. A worker that has not started yet does not count."""
        return any(segment.connections < connections for segment in self._others if segment.pid)


class ClosableProtocol(asyncio.Protocol):
    """A protocol that can be shut down gracefully."""

    def shutdown(self) -> None:
        """Close the connection, after its current request if there is one."""


class Acceptor:
    """Accepts one connection per event loop iteration. It takes the place of ``asyncio.Server`` in ``uvicorn.Server``.

    ``asyncio.Server`` accepts all pending connections at once, and a busy worker wakes up before an idle one. All
    connections of a client would then go to one worker and stay there, while the others are idle.
    """

    def __init__(
        self,
        listener: socket.socket,
        make_protocol: Callable[[], ClosableProtocol],
        balancer: ConnectionBalancer,
        connections: Callable[[], int],
        close_one: Callable[[], object] | None = None,
        on_shut_down: Callable[[], object] | None = None,
    ) -> None:
        """Start accepting from a listening socket, which the caller closes.

        ``connections`` returns the number of connections. ``close_one`` closes an idle connection; it is called if the
        operating system cannot accept another one. ``on_shut_down`` is called if another process has shut the socket
        down, so that nobody can connect to it any more.
        """
        self._listener = listener
        self._make_protocol = make_protocol
        self._balancer = balancer
        self._connections = connections
        self._close_one = close_one
        self._on_shut_down = on_shut_down
        self._logged_at = -math.inf
        self._loop = asyncio.get_running_loop()
        self._connecting: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        listener.settimeout(0)
        self._resume()

    def accept_waiting(self) -> None:
        """Accept all connections that wait now."""
        while not self._closed and self._accept():
            pass

    def close(self) -> None:
        """Stop accepting. Idempotent."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._listener)

    async def wait_closed(self) -> None:
        """Wait until every accepted connection has its protocol."""
        if self._connecting:
            await asyncio.wait(self._connecting)

    def _resume(self) -> None:
        self._timer = None
        self._loop.add_reader(self._listener, self._on_readable)

    def _wait(self, seconds: float, then: Callable[[], None]) -> None:
        self._loop.remove_reader(self._listener)
        self._timer = self._loop.call_later(seconds, then)

    def _on_readable(self) -> None:
        if self._balancer.is_ahead(self._connection_count()):
            self._wait(YIELD_S, self._resume_and_accept)
        else:
            self._accept()

    def _resume_and_accept(self) -> None:
        self._resume()
        self._accept()

    def _connection_count(self) -> int:
        return self._connections() + len(self._connecting)

    def _accept(self) -> bool:
        """Accept a connection. Return whether there was one."""
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):  # another worker accepted it, or the client disconnected
            return False
        except OSError as error:
            if error.errno == errno.EINVAL:  # the socket does not listen any more
                self.close()
                if self._on_shut_down is not None:
                    self._on_shut_down()
            else:
                self._make_room(error)
            return False
        task = self._loop.create_task(self._connect(connection))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        self._balancer.publish(self._connection_count())
        return True

    def _make_room(self, error: OSError) -> None:
        """Close an idle connection, and resume accepting after a pause."""
        now = self._loop.time()
        if now - self._logged_at >= LOG_INTERVAL_S:
            self._logged_at = now
            _LOG.warning("cannot accept a connection, retrying: %s", error.strerror)
        if self._close_one is not None:
            self._close_one()
        self._wait(PAUSE_S, self._resume)

    async def _connect(self, connection: socket.socket) -> None:
        try:
            # Event loops set TCP_NODELAY and O_NONBLOCK themselves.
            _, protocol = await self._loop.connect_accepted_socket(self._make_protocol, connection)
        except OSError:  # the connection failed before its protocol took over
            connection.close()
        else:
            if self._closed:  # the other protocols were shut down before this one existed
                protocol.shutdown()
