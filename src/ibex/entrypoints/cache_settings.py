"""The settings of caches: how much they hold, for how long, and how entries in Redis are authenticated.

A part of ``Settings``.
"""

from __future__ import annotations

from dataclasses import dataclass

from ibex.entrypoints.limit_settings import LimitSettings
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
class CacheSettings(LimitSettings):
    """Times are in seconds."""

    auth_cache_size: int = setting(
        5_000,
        Variable(
            "IBEX_AUTH_CACHE_SIZE",
            int_between(1, 1_000_000),
            "1 to 1000000 entries",
            "How many tokens, agents and directives each a worker remembers.",
        ),
    )
    auth_stale_if_error_s: float = setting(
        300.0,
        Variable(
            "IBEX_AUTH_STALE_IF_ERROR",
            delay,
            "seconds, 0 to 86400",
            "How long an entry is served while auth cannot reach PostgreSQL; 0 with several regions.",
        ),
    )
    directive_stale_if_error_s: float = setting(
        300.0,
        Variable(
            "IBEX_DIRECTIVE_STALE_IF_ERROR",
            delay,
            "seconds, 0 to 86400",
            "How long the last known directive holds where neither Redis nor PostgreSQL answers.",
        ),
    )
    directive_cache_ttl_s: float = setting(
        60.0,
        Variable("IBEX_DIRECTIVE_CACHE_TTL", seconds, SECONDS, "How long a directive is cached if nothing changes it."),
    )
    cache_key: Secret[str] | None = setting(
        None,
        Variable(
            "IBEX_CACHE_KEY",
            service_token,
            "at least 32 characters",
            "Authenticates directives in Redis, the same for all workers; without it IBEX_AUTH_SERVICE_TOKEN does. "
            "Without either, directives are not cached in Redis.",
            is_secret=True,
        ),
    )
