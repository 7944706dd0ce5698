"""The check of the database role's rights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from ibex.adapters.postgres.database import Database
from ibex.adapters.postgres.roles import APP_ROLE, AUTH_ROLE, UnsafeRoleError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.postgres import PostgresDatabase

pytestmark = pytest.mark.integration


@pytest.fixture
def role(postgres: PostgresDatabase) -> Iterator[str]:
    """A login role with the rights of the application's role."""
    with psycopg.connect(postgres.superuser_url, autocommit=True) as connection:
        connection.execute("CREATE ROLE somebody LOGIN IN ROLE ibex_app")
    yield "somebody"
    with psycopg.connect(postgres.superuser_url, autocommit=True) as connection:
        connection.execute("DROP ROLE somebody")


async def _open(url: str, role: str) -> None:
    database = Database(url, role)
    try:
        await database.open()
        await database.ping()
    finally:
        await database.close()


async def test_each_role_is_accepted(postgres: PostgresDatabase) -> None:
    """The roles that the migrations create are accepted."""
    await _open(postgres.app_url, APP_ROLE)
    await _open(postgres.auth_url, AUTH_ROLE)


async def test_a_member_of_the_role_is_accepted(postgres: PostgresDatabase, role: str) -> None:
    """A deployment may use a login role with another name."""
    await _open(postgres.server.url(role, postgres.name), APP_ROLE)


async def test_a_superuser_is_refused(postgres: PostgresDatabase) -> None:
    """Row-level security does not apply to it."""
    with pytest.raises(UnsafeRoleError, match="superuser"):
        await _open(postgres.superuser_url, APP_ROLE)


async def test_the_owner_is_refused(postgres: PostgresDatabase) -> None:
    """The owner of tables can disable their policies."""
    with pytest.raises(UnsafeRoleError, match="owns tables"):
        await _open(postgres.owner_url, APP_ROLE)


async def test_the_wrong_role_is_refused(postgres: PostgresDatabase) -> None:
    """Swapped URLs are detected at start, not at the first request."""
    with pytest.raises(UnsafeRoleError, match="'ibex_auth' is not 'ibex_app'"):
        await _open(postgres.auth_url, APP_ROLE)


@pytest.mark.parametrize(
    ("grant", "revoke", "reason"),
    [
        ("ALTER ROLE somebody BYPASSRLS", "ALTER ROLE somebody NOBYPASSRLS", "bypass"),
        ("GRANT postgres TO somebody", "REVOKE postgres FROM somebody", "superuser"),
        ("GRANT ibex_owner TO somebody", "REVOKE ibex_owner FROM somebody", "owner"),
        ("GRANT ibex_recorder TO somebody", "REVOKE ibex_recorder FROM somebody", "member of 'ibex_recorder'"),
        ("GRANT ibex_sweeper TO somebody", "REVOKE ibex_sweeper FROM somebody", "member of 'ibex_sweeper'"),
    ],
)
async def test_the_rights_of_inherited_roles_count(
    postgres: PostgresDatabase, role: str, grant: str, revoke: str, reason: str
) -> None:
    """An injected SET ROLE could use it."""
    with psycopg.connect(postgres.superuser_url, autocommit=True) as connection:
        connection.execute(grant.encode())
        try:
            with pytest.raises(UnsafeRoleError, match=reason):
                await _open(postgres.server.url(role, postgres.name), APP_ROLE)
        finally:
            connection.execute(revoke.encode())


async def test_a_role_that_became_unsafe_while_the_server_was_down_is_refused(
    postgres: PostgresDatabase, role: str
) -> None:
    """If the server is down at start, the role is checked at every new connection."""
    postgres.server.stop()
    database = Database(postgres.server.url(role, postgres.name), APP_ROLE)
    await database.open()
    postgres.server.start()
    with psycopg.connect(postgres.superuser_url, autocommit=True) as connection:
        connection.execute("ALTER ROLE somebody BYPASSRLS")
        with pytest.raises(UnsafeRoleError, match="bypass"):
            await database.ping()
        connection.execute("ALTER ROLE somebody NOBYPASSRLS")
    await database.close()
