"""Which connections are closed when there is no room for all of them."""

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

    def close_now(self) -> None:
        """Note it."""
        self.closed = True


def filled(*roles: PeerRole) -> tuple[GrpcConnections, list[Connection]]:
    """Return a full table with connections of these roles, the oldest first."""
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
def test_a_full_table_closes_the_oldest_of_the_lowest_standing(roles: tuple[PeerRole, ...], closed: int) -> None:
    """One for each that comes."""
    table, connections = filled(*roles)

    assert table.add("new", Connection())

    assert [connection.closed for connection in connections] == [number == closed for number in range(2)]
    assert len(table) == 2


def test_services_are_never_closed_for_another() -> None:
    """The new one is refused, until one of them has gone."""
    table, connections = filled(PeerRole.SERVICE, PeerRole.SERVICE)

    assert not table.add("new", Connection())
    table.remove("0")
    table.remove("0")

    assert table.add("new", Connection())
    assert not any(connection.closed for connection in connections)


def test_standing_only_rises() -> None:
    """What is not in the table has none."""
    table, _ = filled(PeerRole.SERVICE)

    table.authenticated("0", PeerRole.ADMINISTRATOR)
    table.authenticated("unknown", PeerRole.SERVICE)

    assert table.role("0") is PeerRole.SERVICE
    assert table.role("unknown") is None


@pytest.mark.parametrize("role", PeerRole)
def test_an_unauthenticated_connection_makes_only_so_many_calls(role: PeerRole) -> None:
    """A connection that has proven a caller makes as many as it likes."""
    table, (connection,) = filled(role)
    for _ in range(MAX_UNAUTHENTICATED_CALLS - 1):
        table.count_unauthenticated_call("0")
    assert not connection.closed

    table.count_unauthenticated_call("0")
    table.count_unauthenticated_call("0")

    assert [connection.closed, len(table)] == ([True, 0] if role is PeerRole.UNAUTHENTICATED else [False, 1])


def test_a_call_of_an_unknown_method_counts_as_several() -> None:
    """Nobody who belongs there makes one."""
    table, (connection,) = filled(PeerRole.UNAUTHENTICATED)
    for _ in range(MAX_UNAUTHENTICATED_CALLS // CALLS_PER_UNKNOWN_METHOD - 1):
        table.count_unauthenticated_call("0", CALLS_PER_UNKNOWN_METHOD)
    assert not connection.closed

    table.count_unauthenticated_call("0", CALLS_PER_UNKNOWN_METHOD)

    assert connection.closed


def test_a_table_has_room() -> None:
    """A bound of none would refuse everybody."""
    with pytest.raises(ValueError, match="at least"):
        GrpcConnections(0)
