"""The administrative use cases and both migrations, over real servers that settings name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ibex.adapters.clickhouse.connection import disconnect
from ibex.adapters.postgres.migrate import head
from ibex.entrypoints.administration import administration
from ibex.entrypoints.migrations import migrate
from ibex.entrypoints.settings import Settings, SettingsError

if TYPE_CHECKING:
    from harness.clickhouse import ClickHouseDatabase
    from harness.postgres import PostgresDatabase

pytestmark = pytest.mark.integration

PEPPER = "k:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="


async def test_the_use_cases_work_over_the_servers_that_are_named(
    postgres: PostgresDatabase, clickhouse: ClickHouseDatabase
) -> None:
    """What is made is found; an organization without requests has no sessions and no traces."""
    settings = Settings.load(
        {
            "IBEX_DATABASE_URL": postgres.app_url,
            "IBEX_AUTH_DATABASE_URL": postgres.auth_url,
            "IBEX_CLICKHOUSE_URL": clickhouse.url,
            "IBEX_TOKEN_PEPPERS": PEPPER,
        }
    )
    async with administration(settings) as use_cases:
        organization = await use_cases.identity.create_organization("acme")
        agent = await use_cases.identity.create_agent(organization.id, "one")
        await use_cases.directives.set(organization.id, agent.id, "Be brief.", author="somebody")
        assert [o.name for o in await use_cases.identity.organizations()] == ["acme"]
        assert (await use_cases.directives.show(organization.id, agent.id)).version.number == 1
        assert await use_cases.sessions.sessions(organization.id, 10) == []
        assert await use_cases.traces.tail(organization.id, 10) == []


async def test_what_is_not_named_is_said() -> None:
    """The message names the variable."""
    with pytest.raises(SettingsError, match="IBEX_DATABASE_URL"):
        async with administration(Settings()):
            raise AssertionError("it must not get here")


async def test_in_production_changes_need_the_redis_of_the_proxies() -> None:
    """A change replaces the organization's epoch there, so it is in force at the next request."""
    environ = {
        "IBEX_ENV": "production",
        "IBEX_DATABASE_URL": "postgresql://ibex_app@127.0.0.1:1/ibex",
        "IBEX_AUTH_DATABASE_URL": "postgresql://ibex_auth@127.0.0.1:1/ibex",
        "IBEX_CLICKHOUSE_URL": "http://127.0.0.1:1",
        "IBEX_TOKEN_PEPPERS": "k1:rk3lX0vWq1cO2bqVYp7s9g==",
        "IBEX_ALLOW_INSECURE": "postgres,clickhouse",
    }
    with pytest.raises(SettingsError, match="IBEX_REDIS_URL"):
        async with administration(Settings.load(environ)):
            raise AssertionError("it must not get here")


def test_both_databases_are_migrated_and_then_current(
    empty_postgres: PostgresDatabase, empty_clickhouse: ClickHouseDatabase
) -> None:
    """The first run says what it applied, the second that there is nothing to do."""
    settings = Settings.load(
        {"IBEX_OWNER_DATABASE_URL": empty_postgres.owner_url, "IBEX_CLICKHOUSE_URL": empty_clickhouse.url}
    )
    first, second = migrate(settings), migrate(settings)
    assert first[0] == second[0] == f"PostgreSQL is at revision {head()}."
    assert "applied" in first[1]
    assert second[1] == "ClickHouse is up to date."


def test_another_time_to_live_alters_the_table(
    empty_postgres: PostgresDatabase, empty_clickhouse: ClickHouseDatabase
) -> None:
    """``IBEX_TRACE_TTL_DAYS`` holds from the next migration on."""
    urls = {"IBEX_OWNER_DATABASE_URL": empty_postgres.owner_url, "IBEX_CLICKHOUSE_URL": empty_clickhouse.url}
    migrate(Settings.load(urls))
    changed = migrate(Settings.load({**urls, "IBEX_TRACE_TTL_DAYS": "7"}))
    assert changed[1] == "ClickHouse: a time to live of 7 days applied."
    client = empty_clickhouse.client()
    query = "SELECT engine_full FROM system.tables WHERE database = {name:String} AND name = 'llm_traces'"
    ((engine,),) = client.query(query, parameters={"name": empty_clickhouse.name}).result_rows
    disconnect(client)
    assert "toIntervalDay(7)" in engine
