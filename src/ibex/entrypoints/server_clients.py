"""The clients of PostgreSQL, ClickHouse and Redis, made from the settings.

A URL that a client does not accept is a ``SettingsError``, which names the variable and no part of the URL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ibex.adapters.clickhouse.traces import ClickHouseTraces
from ibex.adapters.postgres.database import Database
from ibex.adapters.redis.credentials import credential_provider
from ibex.adapters.redis.link import NullRedisObserver, RedisLink
from ibex.entrypoints.settings import SettingsError, variables

if TYPE_CHECKING:
    from redis.credentials import CredentialProvider

    from ibex.adapters.redis.link import RedisObserver
    from ibex.domain.clock import Clock
    from ibex.entrypoints.setting_values import Secret
    from ibex.entrypoints.settings import Settings


def postgres_database(settings: Settings, name: str, role: str, pool_size: int | None = None) -> Database:
    """Return the database whose URL is a setting (a field's name). The size of the pool is a setting too."""
    settings.require(name)
    try:
        return Database(
            getattr(settings, name).reveal(),
            role,
            pool_size=pool_size or settings.database_pool_size,
            prepares=settings.database_prepare,
        )
    except ValueError as wrong:
        raise _unusable(name, wrong) from None


def _unusable(name: str, wrong: ValueError) -> SettingsError:
    """Return the error for a setting (a field's name) that an adapter does not accept, with the adapter's reason."""
    return SettingsError(f"{dict(variables())[name].name} cannot be used: {wrong}.")


def clickhouse_traces(url: Secret[str], cluster: str | None = None) -> ClickHouseTraces:
    """Return the traces in ClickHouse, on a cluster if there is one."""
    try:
        return ClickHouseTraces(url.reveal(), cluster=cluster)
    except ValueError as wrong:
        raise _unusable("clickhouse_url", wrong) from None


def _credential_provider(settings: Settings) -> CredentialProvider | None:
    if settings.redis_credential_provider is None:
        return None
    try:
        return credential_provider(settings.redis_credential_provider)
    except ValueError as wrong:
        raise SettingsError(f"IBEX_REDIS_CREDENTIAL_PROVIDER is invalid: {wrong}.") from None


def redis_link(settings: Settings, clock: Clock, telemetry: RedisObserver) -> RedisLink:
    """Return the link to Redis."""
    url = settings.redis_url.reveal() if settings.redis_url is not None else ""
    provider = _credential_provider(settings)
    try:
        return RedisLink(url, clock, telemetry, timeout_s=settings.redis_timeout_s, credential_provider=provider)
    except ValueError as wrong:
        raise _unusable("redis_url", wrong) from None


def redis_link_if_any(settings: Settings, clock: Clock) -> RedisLink | None:
    """Return the link to Redis without metrics, None if no Redis is configured."""
    return None if settings.redis_url is None else redis_link(settings, clock, NullRedisObserver())
