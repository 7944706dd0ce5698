"""Which connections auth keeps when it has no room for all of them (ADR 0038). This module opens no socket."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, Protocol

MAX_STRANGER_CALLS: Final = 100
"""Calls that a connection may make before one of them proves a caller."""


class Standing(IntEnum):
    """What the calls of a connection have proven so far. The lowest is closed first."""

    STRANGER = 0
    ADMINISTRATOR = 1
    SERVICE = 2


class Closable(Protocol):
    """A connection that can be closed."""

    def close_now(self) -> None:
        """Close it and discard what it has not sent. Must not call back into the table."""


class ConnectionTable:
    """At most ``room`` connections, by name. A full table closes the oldest of the lowest standing."""

    def __init__(self, room: int) -> None:
        """Take the number of connections. Raises ``ValueError`` for none."""
        if room < 1:
            raise ValueError("a table has room for one connection at least")
        self._room = room
        self._by_standing: dict[Standing, dict[str, Closable]] = {standing: {} for standing in Standing}
        self._standing: dict[str, Standing] = {}
        self._stranger_calls: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._standing)

    def add(self, name: str, connection: Closable) -> bool:
        """Keep a new connection. Return whether there is room, if need be after closing another one.

        Connections of services are never closed for it.
        """
        if len(self._standing) >= self._room and not self._make_room():
            return False
        self._standing[name] = Standing.STRANGER
        self._by_standing[Standing.STRANGER][name] = connection
        return True

    def remove(self, name: str) -> None:
        """Forget a connection. A name that is not in the table is ignored."""
        standing = self._standing.pop(name, None)
        if standing is not None:
            del self._by_standing[standing][name]
            self._stranger_calls.pop(name, None)

    def standing(self, name: str) -> Standing | None:
        """Return what a connection has proven; None if it is not in the table."""
        return self._standing.get(name)

    def proved(self, name: str, standing: Standing) -> None:
        """Raise a connection's standing. It is never lowered."""
        current = self._standing.get(name)
        if current is None or current >= standing:
            return
        connection = self._by_standing[current].pop(name)
        self._by_standing[standing][name] = connection
        self._standing[name] = standing
        self._stranger_calls.pop(name, None)

    def called(self, name: str) -> None:
        """Count a call that proves nothing. A connection that makes only such calls is closed after some."""
        if self._standing.get(name) is not Standing.STRANGER:
            return
        calls = self._stranger_calls.get(name, 0) + 1
        if calls < MAX_STRANGER_CALLS:
            self._stranger_calls[name] = calls
        else:
            self._close(name, Standing.STRANGER)

    def _make_room(self) -> bool:
        for standing in (Standing.STRANGER, Standing.ADMINISTRATOR):
            oldest = next(iter(self._by_standing[standing]), None)
            if oldest is not None:
                self._close(oldest, standing)
                return True
        return False

    def _close(self, name: str, standing: Standing) -> None:
        connection = self._by_standing[standing][name]
        self.remove(name)
        connection.close_now()
