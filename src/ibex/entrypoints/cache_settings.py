"""The settings of caches, a part of ``Settings``: size, lifetime, and the key that authenticates entries in Redis."""

from __future__ import annotations

from dataclasses import dataclass

from ibex.entrypoints.clickhouse_settings import ClickHouseSettings
from ibex.entrypoints.setting_values import (
    SECONDS,
    Secret,
    Variable,
    delay,
    int_between,
    seconds,
    service_token,
    setting,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSettings(ClickHouseSettings):
    """Sizes and lifetimes of caches. Times are in seconds."""

    auth_cache_size: int = setting(
        5_000,
        Variable(
            "IBEX_AUTH_CACHE_SIZE",
            int_between(1, 1_000_000),
            "1 to 1000000 entries",
            "How many tokens, how many agents and how many directives each worker caches.",
        ),
    )
    auth_stale_if_error_s: float = setting(
        300.0,
        Variable(
            "IBEX_AUTH_STALE_IF_ERROR",
            delay,
            "seconds, 0 to 86400",
            "How long a cached entry is used while auth cannot reach PostgreSQL. Set 0 with several regions.",
        ),
    )
    directive_stale_if_error_s: float = setting(
        300.0,
        Variable(
            "IBEX_DIRECTIVE_STALE_IF_ERROR",
            delay,
            "seconds, 0 to 86400",
            "How long the last known directive is used while neither Redis nor PostgreSQL answers.",
        ),
    )
    directive_cache_ttl_s: float = setting(
        60.0,
        Variable(
            "IBEX_DIRECTIVE_CACHE_TTL", seconds, SECONDS, "How long a directive that does not change stays cached."
        ),
    )
    cache_key: Secret[str] | None = setting(
        None,
        Variable(
            "IBEX_CACHE_KEY",
            service_token,
            "at least 32 characters",
            "The key that authenticates directives in Redis, the same for all workers. Default: the value of "
            "IBEX_AUTH_SERVICE_TOKEN. If neither is set, directives are not cached in Redis.",
            is_secret=True,
        ),
    )
