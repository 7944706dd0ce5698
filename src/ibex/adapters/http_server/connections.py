"""The client connections of a worker: their states, a timer for each state, and the maximum number of connections.

Every connection is in exactly one state. Each state that waits for the client has a time limit (ADR 0037):

=============  ===============================================  =========================================  ============
state          the connection waits for                         it is aborted after                        evicted
=============  ===============================================  =========================================  ============
NEW            the head of its first request                    ``head_s``, and ``head_s`` from the first  first
                                                                byte
OVERLOADED     the head of a request that gets 503, because     ``head_s``                                 beyond a
               the worker has reached its maximum                                                          reserve
LINGERING      the client to stop sending after a response      ``linger_s``, or ``MAX_DISCARDED_BYTES``   second
               that closes the connection
IDLE           the first byte of the next request               ``keep_alive_s``                           third
HEAD           the rest of a later head                         ``head_s`` from its first byte             fourth
PIPELINED      the rest of a head behind a running request      ``head_s`` from its first byte             never
FRAMING        the rest of a chunk's framing or of trailers     ``head_s`` from its first byte             never
REQUEST        the application, which has its own deadlines     (the body's and the provider's deadlines)  never
               for the body and for the provider
=============  ===============================================  =========================================  ============

``ClientReading`` watches a client that does not read its response, whatever the state of the connection.

All connections in a state have the same time limit, so they are due in the order in which they entered, and one timer
serves all of them. A request costs one removal and one insertion, but no timer of its own.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Protocol

from ibex.domain.deadline import GraceTimer

MAX_DISCARDED_BYTES: Final = 16 << 20
"""The maximum number of bytes that are read and discarded after a response."""
DISCARDED_BYTES_PER_S: Final = 64 << 20
"""The maximum number of bytes that a worker discards per second, on all connections together."""
_SHORT_PAUSE_S: Final = 0.0005
"""The shortest pause in reading. A shorter one would cost more than it saves."""
OVERLOAD_RESERVE: Final = 64
"""Connections accepted beyond the limit, to answer their first request with 503."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The limits of a worker's client connections. Times are in seconds.

    A client that reads nothing is cut off after ``stall_s``, a client that reads less than ``min_bytes_per_s`` after
    ``slow_s``.
    """

    head_s: float = 10.0
    stall_s: float = 60.0
    keep_alive_s: float = 75.0
    linger_s: float = 2.0
    slow_s: float = 30.0
    min_bytes_per_s: int = 1024
    connections: int = 10_000


class DiscardRate:
    """A worker's limit on discarding data, so that clients with refused requests cannot use up its CPU time.

    One connection alone gets the whole rate; several share it in the order in which their bytes arrive.
    """

    __slots__ = ("_bytes_per_s", "_free_at")

    def __init__(self, bytes_per_s: int = DISCARDED_BYTES_PER_S) -> None:
        self._bytes_per_s = bytes_per_s
        self._free_at = 0.0

    def count(self, size: int, transport: asyncio.Transport) -> None:
        """Count discarded bytes of a connection, and pause reading it until the rate allows more."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._free_at = max(self._free_at, now) + size / self._bytes_per_s
        if self._free_at - now > _SHORT_PAUSE_S:
            transport.pause_reading()
            loop.call_at(self._free_at, _resume_reading, transport)


def _resume_reading(transport: asyncio.Transport) -> None:
    if not transport.is_closing():
        transport.resume_reading()


class Reading(IntEnum):
    """The part of a request that is read next."""

    NOTHING_YET = 0
    HEAD = 1
    BODY = 2
    DISCARDED = 3
    """Nothing: all further data is discarded."""


class Tracked(Protocol):
    """The interface of a connection in the table. ``state`` is None once the connection has left the table."""

    state: State | None

    def overdue(self, state: State) -> None:
        """Abort the connection or re-enter a state, because the time limit of ``state`` has passed."""

    def abort(self) -> None:
        """Abort the connection and discard unsent data."""


class State:
    """A state with its connections, oldest first, and their timer. A state without a time limit keeps no list."""

    __slots__ = ("_timer", "limit_s", "members", "name")

    def __init__(self, name: str, limit_s: float | None) -> None:
        self.name = name
        self.members: OrderedDict[Tracked, float] = OrderedDict()
        self.limit_s = limit_s
        self._timer: GraceTimer | None = None

    def __repr__(self) -> str:
        return f"<{self.name}: {len(self.members)}>"

    def add(self, connection: Tracked) -> None:
        """Add a connection and start its time limit."""
        if self.limit_s is None:
            return
        due = asyncio.get_running_loop().time() + self.limit_s
        self.members[connection] = due
        if self._timer is None:
            self._timer = GraceTimer(due, self._end_overdue)

    def _end_overdue(self) -> None:
        now = asyncio.get_running_loop().time()
        try:
            while self.members:
                connection, due = next(iter(self.members.items()))
                if due > now:
                    break
                del self.members[connection]
                connection.overdue(self)
        finally:
            self._timer = None
            if self.members:
                self._timer = GraceTimer(next(iter(self.members.values())), self._end_overdue)


class ConnectionTable:
    """All client connections of a worker by state. Operations take constant time."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self.discarding = DiscardRate()
        self.is_draining = False
        """Whether each connection is closed after its response, because the process ends."""
        self.count = 0
        self.new = State("new", limits.head_s)
        self.overloaded = State("overloaded", limits.head_s)
        self.lingering = State("lingering", limits.linger_s)
        self.idle = State("idle", limits.keep_alive_s)
        self.head = State("head", limits.head_s)
        self.pipelined = State("pipelined", limits.head_s)
        self.framing = State("framing", limits.head_s)
        self.request = State("request", None)

    def join(self, connection: Tracked) -> bool:
        """Add a connection. Return False if its requests get 503, because the table is full of running requests."""
        if self.count >= self.limits.connections:
            self.close_one()
        has_room = self.count < self.limits.connections
        if not has_room and len(self.overloaded.members) >= OVERLOAD_RESERVE:
            self._close_first(self.overloaded)
        self.count += 1
        connection.state = state = self.new if has_room else self.overloaded
        state.add(connection)
        return has_room

    def enter(self, connection: Tracked, state: State) -> None:
        """Move a connection to a state and start its time limit. A connection that has left the table stays out."""
        old = connection.state
        if old is not None:
            if connection in old.members:
                del old.members[connection]
            connection.state = state
            if state.limit_s is not None:
                state.add(connection)

    def leave(self, connection: Tracked) -> None:
        """Remove a connection that has ended. Idempotent."""
        old = connection.state
        if old is not None:
            if connection in old.members:
                del old.members[connection]
            connection.state = None
            self.count -= 1

    def close_one(self) -> bool:
        """Abort the first connection in the order of the table above; return False if all of them carry requests."""
        return any(self._close_first(state) for state in (self.new, self.lingering, self.idle, self.head))

    def _close_first(self, state: State) -> bool:
        if not state.members:
            return False
        connection = next(iter(state.members))
        self.leave(connection)
        connection.abort()
        return True
