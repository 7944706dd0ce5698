"""Migration of both databases to the schema of this version."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ibex.adapters.clickhouse.migrate import MigrationError as ClickHouseMigrationError
from ibex.adapters.clickhouse.migrate import NewerSchemaError as NewerClickHouseSchemaError
from ibex.adapters.clickhouse.migrate import migrate as migrate_clickhouse
from ibex.adapters.clickhouse.migrate import pending as pending_in_clickhouse
from ibex.adapters.postgres.migrate import MigrationError as PostgresMigrationError
from ibex.adapters.postgres.migrate import NewerSchemaError as NewerPostgresSchemaError
from ibex.adapters.postgres.migrate import pending as pending_in_postgres
from ibex.adapters.postgres.migrate import upgrade as migrate_postgres
from ibex.entrypoints.outcome import CommandFailedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ibex.entrypoints.settings import Settings

_NEWER: Final = (
    "Nothing was changed. This version runs on the schema of the next version. To migrate, run `ibex migrate` of the"
    " newer version."
)


@dataclass(frozen=True, slots=True)
class Schema:
    """A report about one database, and whether migrations are pending."""

    report: str
    is_pending: bool = False


def migrate(settings: Settings) -> list[str]:
    """Migrate PostgreSQL, as its owner, and ClickHouse. Return a report with one line for each database.

    A schema that is newer than this version stays as it is, so that an older version can start on it. Raises
    ``SettingsError`` if a URL is not set, and ``CommandFailedError`` with the name of the URL's variable if a
    migration fails.
    """
    return [schema.report for schema in _both(settings, _migrated_postgres, _migrated_clickhouse)]


def check(settings: Settings) -> list[Schema]:
    """Return what ``migrate`` would do. Changes nothing. Raises as ``migrate`` does."""
    return _both(settings, _checked_postgres, _checked_clickhouse)


def _both(
    settings: Settings, postgres: Callable[[str], Schema], clickhouse: Callable[[Settings, str], Schema]
) -> list[Schema]:
    settings.require("owner_database_url", "clickhouse_url")
    if settings.owner_database_url is None or settings.clickhouse_url is None:
        return []
    schemas = []
    try:
        schemas.append(postgres(settings.owner_database_url.reveal()))
    except NewerPostgresSchemaError as newer:
        schemas.append(Schema(f"PostgreSQL: {newer}. {_NEWER}"))
    except PostgresMigrationError as error:
        raise CommandFailedError(f"IBEX_OWNER_DATABASE_URL: {error}") from None
    try:
        schemas.append(clickhouse(settings, settings.clickhouse_url.reveal()))
    except NewerClickHouseSchemaError as newer:
        schemas.append(Schema(f"ClickHouse: {newer}. {_NEWER}"))
    except (ClickHouseMigrationError, ValueError) as error:
        raise CommandFailedError(f"IBEX_CLICKHOUSE_URL: {error}") from None
    return schemas


def _migrated_postgres(url: str) -> Schema:
    return Schema(f"PostgreSQL is at revision {migrate_postgres(url)}.")


def _migrated_clickhouse(settings: Settings, url: str) -> Schema:
    applied = migrate_clickhouse(
        url,
        ttl_days=settings.trace_ttl_days,
        cluster=settings.clickhouse_cluster,
        batches_per_second=settings.trace_batches_per_second,
    )
    return Schema(f"ClickHouse: {', '.join(applied)} applied." if applied else "ClickHouse is up to date.")


def _checked_postgres(url: str) -> Schema:
    return _checked("PostgreSQL", list(pending_in_postgres(url)))


def _checked_clickhouse(settings: Settings, url: str) -> Schema:
    pending = pending_in_clickhouse(
        url,
        ttl_days=settings.trace_ttl_days,
        cluster=settings.clickhouse_cluster,
        batches_per_second=settings.trace_batches_per_second,
    )
    return _checked("ClickHouse", pending)


def _checked(name: str, pending: list[str]) -> Schema:
    if pending:
        return Schema(f"{name}: {', '.join(pending)} pending. Run `ibex migrate`.", is_pending=True)
    return Schema(f"{name} is up to date.")
