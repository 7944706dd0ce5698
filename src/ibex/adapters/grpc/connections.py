"""The table of client connections to auth's gRPC port, and which one to close when it is full (ADR 0038).

This module opens no socket.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, Protocol

MAX_UNAUTHENTICATED_CALLS: Final = 100
"""Calls that a connection may make without authenticating before it is closed."""
CALLS_PER_UNKNOWN_METHOD: Final = 10
"""The number of calls that one call of an unknown method counts as. IBEX's own clients make no such call."""


class PeerRole(IntEnum):
    """The highest role that a caller on a connection has authenticated as. Lower roles are closed first."""

    UNAUTHENTICATED = 0
    ADMINISTRATOR = 1
    SERVICE = 2


class Closable(Protocol):
    """A connection that can be closed."""

    def close_now(self) -> None:
        """Close the connection and discard unsent data. Must not call back into the table."""

    def close_later(self) -> None:
        """Stop serving the connection at once, but close it only after a while. Must not call back into the table."""


class GrpcConnections:
    """A table of connections by name, with a maximum size. A full table closes the oldest one of the lowest role."""

    def __init__(self, max_connections: int) -> None:
        """Set the maximum size. Raises ``ValueError`` if it is less than 1."""
        if max_connections < 1:
            raise ValueError(f"max_connections must be at least 1, not {max_connections}")
        self._max_connections = max_connections
        self._by_role: dict[PeerRole, dict[str, Closable]] = {role: {} for role in PeerRole}
        self._roles: dict[str, PeerRole] = {}
        self._unauthenticated_calls: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._roles)

    def add(self, name: str, connection: Closable) -> bool:
        """Add a connection and return True. Return False if the table is full of connections of services.

        A full table first closes another connection, but never one of a service.
        """
        if len(self._roles) >= self._max_connections and not self._evict_one():
            return False
        self._roles[name] = PeerRole.UNAUTHENTICATED
        self._by_role[PeerRole.UNAUTHENTICATED][name] = connection
        return True

    def remove(self, name: str) -> None:
        """Remove a connection. Idempotent: a name that is not in the table is ignored."""
        role = self._roles.pop(name, None)
        if role is not None:
            del self._by_role[role][name]
            self._unauthenticated_calls.pop(name, None)

    def role(self, name: str) -> PeerRole | None:
        """Return the role of a connection; None if it is not in the table."""
        return self._roles.get(name)

    def authenticated(self, name: str, role: PeerRole) -> None:
        """Record that a caller on this connection has authenticated. A role is never lowered."""
        current = self._roles.get(name)
        if current is None or current >= role:
            return
        connection = self._by_role[current].pop(name)
        self._by_role[role][name] = connection
        self._roles[name] = role
        self._unauthenticated_calls.pop(name, None)

    def count_unauthenticated_call(self, name: str, *, is_unknown: bool = False) -> None:
        """Count an unauthenticated call, and end the connection at ``MAX_UNAUTHENTICATED_CALLS``.

        A call of an unknown method counts as ``CALLS_PER_UNKNOWN_METHOD`` calls. A connection of such calls is not
        served any more but closed later: a client whose connection is closed at once reconnects at once.
        """
        if self._roles.get(name) is not PeerRole.UNAUTHENTICATED:
            return
        before = self._unauthenticated_calls.get(name, 0)
        calls = self._unauthenticated_calls[name] = before + (CALLS_PER_UNKNOWN_METHOD if is_unknown else 1)
        if not before < MAX_UNAUTHENTICATED_CALLS <= calls:
            return
        if is_unknown:
            self._by_role[PeerRole.UNAUTHENTICATED][name].close_later()
        else:
            self._close(name, PeerRole.UNAUTHENTICATED)

    def _evict_one(self) -> bool:
        for role in (PeerRole.UNAUTHENTICATED, PeerRole.ADMINISTRATOR):
            oldest = next(iter(self._by_role[role]), None)
            if oldest is not None:
                self._close(oldest, role)
                return True
        return False

    def _close(self, name: str, role: PeerRole) -> None:
        connection = self._by_role[role][name]
        self.remove(name)
        connection.close_now()
