"""The administrative use cases and both migrations, on real servers named by settings."""

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


async def test_the_use_cases_work_on_the_configured_servers(
    postgres: PostgresDatabase, clickhouse: ClickHouseDatabase
) -> None:
    """Created records are found. An organization without requests has no sessions and no traces."""
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


async def test_a_missing_setting_is_named_in_the_error() -> None:
    """Without any setting, the error names IBEX_DATABASE_URL."""
    with pytest.raises(SettingsError, match="IBEX_DATABASE_URL"):
        async with administration(Settings()):
            raise AssertionError("it must not get here")


async def test_administration_in_production_requires_the_redis_url() -> None:
    """A change replaces the organization's epoch in Redis, so that it takes effect at the next request."""
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


def test_a_second_migration_finds_both_databases_up_to_date(
    empty_postgres: PostgresDatabase, empty_clickhouse: ClickHouseDatabase
) -> None:
    """The first run reports what it applied. The second reports that ClickHouse is up to date."""
    settings = Settings.load(
        {"IBEX_OWNER_DATABASE_URL": empty_postgres.owner_url, "IBEX_CLICKHOUSE_URL": empty_clickhouse.url}
    )
    first, second = migrate(settings), migrate(settings)
    assert first[0] == second[0] == f"PostgreSQL is at revision {head()}."
    assert "applied" in first[1]
    assert second[1] == "ClickHouse is up to date."


def test_a_migration_applies_a_changed_time_to_live(
    empty_postgres: PostgresDatabase, empty_clickhouse: ClickHouseDatabase
) -> None:
    """The next migration alters the table to the new ``IBEX_TRACE_TTL_DAYS``."""
    urls = {"IBEX_OWNER_DATABASE_URL": empty_postgres.owner_url, "IBEX_CLICKHOUSE_URL": empty_clickhouse.url}
    migrate(Settings.load(urls))
    changed = migrate(Settings.load({**urls, "IBEX_TRACE_TTL_DAYS": "7"}))
    assert changed[1] == "ClickHouse: a time to live of 7 days applied."
    client = empty_clickhouse.client()
    query = "SELECT engine_full FROM system.tables WHERE database = {name:String} AND name = 'llm_traces'"
    ((engine,),) = client.query(query, parameters={"name": empty_clickhouse.name}).result_rows
    disconnect(client)
    assert "toIntervalDay(7)" in engine
