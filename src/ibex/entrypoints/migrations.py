"""Bringing both databases to the schema of this version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ibex.adapters.clickhouse.migrate import migrate as migrate_clickhouse
from ibex.adapters.postgres.migrate import upgrade as migrate_postgres

if TYPE_CHECKING:
    from ibex.entrypoints.settings import Settings


def migrate(settings: Settings) -> list[str]:
    """Migrate PostgreSQL as its owner and ClickHouse; return what was done, a line each.

    Raises ``SettingsError`` if a URL is not set, and the databases' own errors.
    """
    settings.require("owner_database_url", "clickhouse_url")
    if settings.owner_database_url is None or settings.clickhouse_url is None:
        return []
    revision = migrate_postgres(settings.owner_database_url.reveal())
    applied = migrate_clickhouse(settings.clickhouse_url.reveal(), ttl_days=settings.trace_ttl_days)
    return [
        f"PostgreSQL is at revision {revision}.",
        f"ClickHouse: {', '.join(applied)} applied." if applied else "ClickHouse is current.",
    ]
