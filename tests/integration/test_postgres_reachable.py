"""Diagnosis of failing connections to PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from harness.servers import free_port
from ibex.adapters.postgres.reachable import connection_failure, reason_of

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
