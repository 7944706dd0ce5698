"""Which connections are closed when there is no room for all of them."""

from __future__ import annotations

import pytest

from ibex.adapters.grpc.connections import MAX_STRANGER_CALLS, ConnectionTable, Standing


class Connection:
    """A connection that records that it was closed."""

    def __init__(self) -> None:
        self.closed = False

    def close_now(self) -> None:
        """Note it."""
        self.closed = True


def filled(*standings: Standing) -> tuple[ConnectionTable, list[Connection]]:
    """Return a full table with connections of these standings, the oldest first."""
    table = ConnectionTable(len(standings))
    connections = [Connection() for _ in standings]
    for name, (connection, standing) in enumerate(zip(connections, standings, strict=True)):
        assert table.add(str(name), connection)
        table.proved(str(name), standing)
    return table, connections


@pytest.mark.parametrize(
    ("standings", "closed"),
    [
        ((Standing.STRANGER, Standing.STRANGER), 0),
        ((Standing.SERVICE, Standing.STRANGER), 1),
        ((Standing.ADMINISTRATOR, Standing.STRANGER), 1),
        ((Standing.SERVICE, Standing.ADMINISTRATOR), 1),
        ((Standing.ADMINISTRATOR, Standing.ADMINISTRATOR), 0),
    ],
)
def test_a_full_table_closes_the_oldest_of_the_lowest_standing(standings: tuple[Standing, ...], closed: int) -> None:
    """One for each that comes."""
    table, connections = filled(*standings)

    assert table.add("new", Connection())

    assert [connection.closed for connection in connections] == [number == closed for number in range(2)]
    assert len(table) == 2


def test_services_are_never_closed_for_another() -> None:
    """The new one is refused, until one of them has gone."""
    table, connections = filled(Standing.SERVICE, Standing.SERVICE)

    assert not table.add("new", Connection())
    table.remove("0")
    table.remove("0")

    assert table.add("new", Connection())
    assert not any(connection.closed for connection in connections)


def test_standing_only_rises() -> None:
    """What is not in the table has none."""
    table, _ = filled(Standing.SERVICE)

    table.proved("0", Standing.ADMINISTRATOR)
    table.proved("unknown", Standing.SERVICE)

    assert table.standing("0") is Standing.SERVICE
    assert table.standing("unknown") is None


@pytest.mark.parametrize("standing", Standing)
def test_a_stranger_makes_only_so_many_calls(standing: Standing) -> None:
    """A connection that has proven a caller makes as many as it likes."""
    table, (connection,) = filled(standing)
    for _ in range(MAX_STRANGER_CALLS - 1):
        table.called("0")
    assert not connection.closed

    table.called("0")
    table.called("0")

    assert [connection.closed, len(table)] == ([True, 0] if standing is Standing.STRANGER else [False, 1])


def test_a_table_has_room() -> None:
    """A bound of none would refuse everybody."""
    with pytest.raises(ValueError, match="at least"):
        ConnectionTable(0)
