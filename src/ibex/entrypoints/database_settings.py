"""The settings of PostgreSQL, a part of ``Settings``: the URL of each role, the pool (ADR 0058)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ibex.entrypoints.cache_settings import CacheSettings
from ibex.entrypoints.setting_values import Secret, Variable, int_between, on_off, secret_url, setting

POSTGRES_URL: Final = "a postgresql:// URL (docs/postgresql.md)"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseSettings(CacheSettings):
    """The settings of connections to PostgreSQL."""

    database_url: Secret[str] | None = setting(
        None,
        Variable(
            "IBEX_DATABASE_URL",
            secret_url("postgresql"),
            POSTGRES_URL,
            "The PostgreSQL database of directives, sessions and checkpoints, with the role ibex_app.",
            is_secret=True,
        ),
    )
    auth_database_url: Secret[str] | None = setting(
        None,
        Variable(
            "IBEX_AUTH_DATABASE_URL",
            secret_url("postgresql"),
            POSTGRES_URL,
            "The PostgreSQL database of organizations, users, agents and tokens, with the role ibex_auth.",
            is_secret=True,
        ),
    )
    owner_database_url: Secret[str] | None = setting(
        None,
        Variable(
            "IBEX_OWNER_DATABASE_URL",
            secret_url("postgresql"),
            POSTGRES_URL,
            "The PostgreSQL database, with the role that owns the schema. Only `ibex migrate` uses it.",
            is_secret=True,
        ),
    )
    database_pool_size: int = setting(
        10,
        Variable(
            "IBEX_DATABASE_POOL_SIZE",
            int_between(1, 1_000),
            "1 to 1000 connections",
            "The maximum number of connections to PostgreSQL, per worker of the proxy. Auth opens the same number for "
            "validation, and up to 6 others.",
        ),
    )
    database_prepare: bool = setting(
        False,  # noqa: FBT003 - a default value
        Variable(
            "IBEX_DATABASE_PREPARE",
            on_off,
            "on or off",
            "Whether connections keep prepared statements, which saves PostgreSQL time. Leave it off behind a pooler "
            "in transaction mode, unless the pooler supports them, as PgBouncer does from 1.21.",
        ),
    )
