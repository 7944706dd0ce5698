"""Migration of both databases to the schema of this version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ibex.adapters.clickhouse.migrate import MigrationError as ClickHouseMigrationError
from ibex.adapters.clickhouse.migrate import migrate as migrate_clickhouse
from ibex.adapters.postgres.migrate import MigrationError as PostgresMigrationError
from ibex.adapters.postgres.migrate import upgrade as migrate_postgres
from ibex.entrypoints.outcome import CommandFailedError

if TYPE_CHECKING:
    from ibex.entrypoints.settings import Settings


def migrate(settings: Settings) -> list[str]:
    """Migrate PostgreSQL, as its owner, and ClickHouse. Return a report with one line for each database.

    Raises ``SettingsError`` if a URL is not set, and ``CommandFailedError`` with the name of the URL's variable if a
    migration fails.
    """
    settings.require("owner_database_url", "clickhouse_url")
    if settings.owner_database_url is None or settings.clickhouse_url is None:
        return []
    try:
        revision = migrate_postgres(settings.owner_database_url.reveal())
    except PostgresMigrationError as error:
        raise CommandFailedError(f"IBEX_OWNER_DATABASE_URL: {error}") from None
    try:
        applied = migrate_clickhouse(
            settings.clickhouse_url.reveal(),
            ttl_days=settings.trace_ttl_days,
            cluster=settings.clickhouse_cluster,
            batches_per_second=settings.trace_batches_per_second,
        )
    except (ClickHouseMigrationError, ValueError) as error:
        raise CommandFailedError(f"IBEX_CLICKHOUSE_URL: {error}") from None
    return [
        f"PostgreSQL is at revision {revision}.",
        f"ClickHouse: {', '.join(applied)} applied." if applied else "ClickHouse is up to date.",
    ]
