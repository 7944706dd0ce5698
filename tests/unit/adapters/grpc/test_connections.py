"""Tests of the table of connections, and of the choice of the connection to close."""

from __future__ import annotations

import pytest

from ibex.adapters.grpc.connections import (
    CALLS_PER_UNKNOWN_METHOD,
    MAX_UNAUTHENTICATED_CALLS,
    GrpcConnections,
    PeerRole,
)


class Connection:
    """A connection that records that it was closed."""

    def __init__(self) -> None:
        self.closed = False
        self.stalled = 0

    def close_now(self) -> None:
        """Record it."""
        self.closed = True

    def close_later(self) -> None:
        """Record it."""
        self.stalled += 1


def filled(*roles: PeerRole) -> tuple[GrpcConnections, list[Connection]]:
    """Return a full table with connections of these roles, oldest first."""
    table = GrpcConnections(len(roles))
    connections = [Connection() for _ in roles]
    for name, (connection, role) in enumerate(zip(connections, roles, strict=True)):
        assert table.add(str(name), connection)
        table.authenticated(str(name), role)
    return table, connections


@pytest.mark.parametrize(
    ("roles", "closed"),
    [
        ((PeerRole.UNAUTHENTICATED, PeerRole.UNAUTHENTICATED), 0),
        ((PeerRole.SERVICE, PeerRole.UNAUTHENTICATED), 1),
        ((PeerRole.ADMINISTRATOR, PeerRole.UNAUTHENTICATED), 1),
        ((PeerRole.SERVICE, PeerRole.ADMINISTRATOR), 1),
        ((PeerRole.ADMINISTRATOR, PeerRole.ADMINISTRATOR), 0),
    ],
)
def test_a_full_table_closes_the_oldest_of_the_lowest_role(roles: tuple[PeerRole, ...], closed: int) -> None:
    """One connection is closed for each new one."""
    table, connections = filled(*roles)

    assert table.add("new", Connection())

    assert [connection.closed for connection in connections] == [number == closed for number in range(2)]
    assert len(table) == 2


def test_a_connection_of_a_service_is_never_replaced() -> None:
    """A new connection is refused until one of them is removed."""
    table, connections = filled(PeerRole.SERVICE, PeerRole.SERVICE)

    assert not table.add("new", Connection())
    table.remove("0")
    table.remove("0")

    assert table.add("new", Connection())
    assert not any(connection.closed for connection in connections)


def test_a_role_is_never_lowered() -> None:
    """A connection that is not in the table has no role."""
    table, _ = filled(PeerRole.SERVICE)

    table.authenticated("0", PeerRole.ADMINISTRATOR)
    table.authenticated("unknown", PeerRole.SERVICE)

    assert table.role("0") is PeerRole.SERVICE
    assert table.role("unknown") is None


@pytest.mark.parametrize("role", PeerRole)
def test_the_calls_of_an_unauthenticated_connection_are_limited(role: PeerRole) -> None:
    """A connection with an authenticated caller has no such limit."""
    table, (connection,) = filled(role)
    for _ in range(MAX_UNAUTHENTICATED_CALLS - 1):
        table.count_unauthenticated_call("0")
    assert not connection.closed

    table.count_unauthenticated_call("0")
    table.count_unauthenticated_call("0")

    assert [connection.closed, len(table)] == ([True, 0] if role is PeerRole.UNAUTHENTICATED else [False, 1])


def test_a_call_of_an_unknown_method_counts_as_several() -> None:
    """IBEX's own clients do not call unknown methods. The connection is no longer served, and is closed later."""
    table, (connection,) = filled(PeerRole.UNAUTHENTICATED)
    for _ in range(MAX_UNAUTHENTICATED_CALLS // CALLS_PER_UNKNOWN_METHOD - 1):
        table.count_unauthenticated_call("0", is_unknown=True)
    assert connection.stalled == 0

    table.count_unauthenticated_call("0", is_unknown=True)
    table.count_unauthenticated_call("0", is_unknown=True)

    assert (connection.closed, connection.stalled, len(table)) == (False, 1, 1)
    assert table.add("new", Connection())  # the table still has it, so that it makes room for another
    assert connection.closed


def test_the_maximum_must_be_positive() -> None:
    """A maximum of 0 would refuse all connections."""
    with pytest.raises(ValueError, match="at least"):
        GrpcConnections(0)
