"""When a connection is useless, and the arguments of connections."""

from __future__ import annotations

from types import SimpleNamespace

import psycopg
import pytest
from psycopg import errors

from ibex.adapters.postgres.connections import CONNECT_TIMEOUT_S, StandbyError, begin, connect_arguments, is_useless


class _Fatal(errors.QueryCanceled):
    """An error with which the server ends the session."""

    @property
    def diag(self) -> SimpleNamespace:  # type: ignore[override] # only a server creates a real one
        """Return the severity."""
        return SimpleNamespace(severity_nonlocalized="FATAL")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.ReadOnlySqlTransaction(), True),
        (errors.AdminShutdown(), True),
        (errors.CrashShutdown(), True),
        (errors.CannotConnectNow(), True),
        (errors.ConnectionFailure(), True),
        (errors.ProtocolViolation(), True),
        (StandbyError(), True),
        (_Fatal(), True),
        (errors.QueryCanceled(), False),
        (errors.UniqueViolation(), False),
        (psycopg.OperationalError(), False),
        (TimeoutError(), False),
    ],
)
def test_a_connection_is_useless_after_these_errors(error: BaseException, *, expected: bool) -> None:
    """The server is read-only, a standby, or ended the session. A refused statement is not such an error."""
    assert is_useless(error) is expected


def test_connections_send_no_startup_options() -> None:
    """Poolers refuse them. Without prepared statements, a pooler may change the session after each transaction."""
    arguments = connect_arguments("postgresql://u@h/d", "ibex_app", prepares=False)
    assert "options" not in arguments
    assert arguments["prepare_threshold"] is None
    assert connect_arguments("postgresql://u@h/d", "ibex_app", prepares=True)["prepare_threshold"] is not None


def test_parameters_of_the_url_take_precedence() -> None:
    """A distant server may need more time to connect."""
    url = "postgresql://u@h/d?connect_timeout=9&keepalives_idle=60"
    given = connect_arguments(url, "ibex_app", prepares=False)
    assert given.keys().isdisjoint({"connect_timeout", "keepalives_idle"})
    assert connect_arguments("postgresql://u@h/d", "ibex_app", prepares=False)["connect_timeout"] == CONNECT_TIMEOUT_S


def test_a_url_with_an_unknown_parameter_is_refused() -> None:
    """The message contains no part of it."""
    with pytest.raises(ValueError, match="libpq") as raised:
        connect_arguments("postgresql://u@h/d?canary=1", "ibex_app", prepares=False)
    assert "canary" not in str(raised.value)


def test_a_transaction_begins_with_its_settings() -> None:
    """All are local to the transaction."""
    statements = begin(None).decode().split(";")
    assert statements[0] == "BEGIN"
    assert all(statement.strip().startswith("SET LOCAL ") for statement in statements[1:-1])
