"""Why PostgreSQL cannot be connected to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from harness.servers import free_port
from ibex.adapters.postgres.reachable import reason_of, why_unreachable

if TYPE_CHECKING:
    from harness.postgres import PostgresDatabase

pytestmark = pytest.mark.integration


async def test_a_server_that_lets_one_in_is_reachable(postgres: PostgresDatabase) -> None:
    """There is no reason then."""
    assert await why_unreachable(postgres.app_url) is None


async def test_a_port_without_a_server_is_told() -> None:
    """In words of ours."""
    assert (
        await why_unreachable(f"postgresql://me:canary@127.0.0.1:{free_port()}/db")
        == "no server listens at this address"
    )


async def test_a_database_or_a_role_that_is_not_there_is_told(postgres: PostgresDatabase) -> None:
    """As the server tells one from the other only to who is let in."""
    nowhere = postgres.server.url("ibex_app", "nowhere")
    nobody = postgres.server.url("nobody_of_that_name", postgres.name)

    assert {await why_unreachable(url) for url in (nowhere, nobody)} == {"the database or the role does not exist"}


async def test_what_is_quoted_in_a_message_is_not_shown() -> None:
    """A URL that libpq cannot read is repeated in its message."""
    assert (
        await why_unreachable("postgresql://me:canary@127.0.0.1:1/db?nonsense=1")
        == "the connection failed; check the URL"
    )


def test_a_wrong_password_is_told() -> None:
    """The user's name, which the server repeats, is not."""
    error = psycopg.OperationalError('connection failed: FATAL:  password authentication failed for user "canary"')
    assert reason_of(error) == "the server refuses the password"
