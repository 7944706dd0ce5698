"""Diagnosis of failing connections to PostgreSQL."""

from __future__ import annotations

import re
from contextlib import nullcontext
from typing import TYPE_CHECKING

import psycopg
import pytest

from harness.relay import Relay
from harness.servers import free_port
from ibex.adapters.postgres import migrate
from ibex.adapters.postgres.reachable import TooOldError, check_version, connection_failure, reason_of

if TYPE_CHECKING:
    from harness.postgres import PostgresDatabase

pytestmark = pytest.mark.integration


async def test_a_server_that_accepts_the_connection_is_reachable(postgres: PostgresDatabase) -> None:
    """The result is None."""
    assert await connection_failure(postgres.app_url) is None


async def test_a_port_without_a_server_is_reported() -> None:
    """The reason is IBEX's own text."""
    assert (
        await connection_failure(f"postgresql://me:canary@127.0.0.1:{free_port()}/db")
        == "no server listens at this address"
    )


async def test_a_missing_database_or_role_is_reported(postgres: PostgresDatabase) -> None:
    """The two are not distinguished, because PostgreSQL only does so for users that may connect."""
    nowhere = postgres.server.url("ibex_app", "nowhere")
    nobody = postgres.server.url("nobody_of_that_name", postgres.name)

    assert {await connection_failure(url) for url in (nowhere, nobody)} == {"the database or the role does not exist"}


async def test_libpqs_message_is_not_shown() -> None:
    """The message of libpq quotes a URL that it cannot parse."""
    assert (
        await connection_failure("postgresql://me:canary@127.0.0.1:1/db?nonsense=1")
        == "the connection failed; check the URL"
    )


def test_a_wrong_password_is_reported() -> None:
    """The name of the user, which the server quotes, is not."""
    error = psycopg.OperationalError('connection failed: FATAL:  password authentication failed for user "canary"')
    assert reason_of(error) == "the server refuses the password"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("FATAL:  unsupported startup parameter: options", "refuses a start-up parameter of the URL"),
        ('FATAL:  no pg_hba.conf entry for host "h", user "u", database "d", no encryption', "requires TLS"),
        ("FATAL:  SSL required", "requires TLS"),
        ('FATAL:  database "d" does not exist', "the database or the role does not exist"),
        ("FATAL:  the database system is starting up", "the server is starting"),
        ("server closed the connection unexpectedly", "the server closed the connection"),
        ("FATAL:  something\x1b[31m else", "the server says: something[31m else"),
        ('invalid integer value "canary" for connection option "port"', "the connection failed; check the URL"),
    ],
)
def test_the_reason_of_the_server_is_reported(said: str, expected: str) -> None:
    """A reason without a text of IBEX's own is the server's. Other messages of libpq can quote the URL."""
    reason = reason_of(psycopg.OperationalError(f'connection failed: connection to server at "h" failed: {said}'))
    assert expected in reason
    assert "canary" not in reason


async def test_a_server_that_is_too_old_is_reported(postgres: PostgresDatabase) -> None:
    """By doctor and by the migration, with the version that was found and the one that is needed."""
    with Relay.running(postgres.socket) as relay:
        relay.replaces = (b"server_version\x0018", b"server_version\x0014")
        url = f"postgresql://ibex_owner@127.0.0.1:{relay.port}/{postgres.name}"
        expected = r"the server is PostgreSQL 14\.\d+, and IBEX needs PostgreSQL 15 or newer; upgrade it"
        assert re.fullmatch(expected, await connection_failure(url) or "")
        with pytest.raises(migrate.MigrationError, match=expected):
            migrate.upgrade(url)


@pytest.mark.parametrize(("version", "is_supported"), [(140_023, False), (150_000, True), (180_004, True)])
def test_postgresql_15_is_the_oldest_supported_version(version: int, *, is_supported: bool) -> None:
    """The boundary."""
    with nullcontext() if is_supported else pytest.raises(TooOldError):
        check_version(version)
