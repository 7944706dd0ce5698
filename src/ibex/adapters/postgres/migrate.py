"""Bringing a database to the schema of this version, and back: Alembic, as the owner of the tables.

Each run is one transaction under an advisory lock: several at once wait for each other, a failed one changes nothing.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psycopg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from ibex.adapters.postgres.reachable import reason_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

_LOCK_KEY: Final = 0x69626578  # "ibex"; any number that every version agrees on
_CONNECT_TIMEOUT_S: Final = 5
_PACKAGE = Path(__file__).parents[2]


class MigrationError(Exception):
    """PostgreSQL could not be migrated; the message names no secret."""


def script_location() -> Path:
    """Return the folder of the migrations: inside the installed package, or at the top of the source tree."""
    installed = _PACKAGE / "_migrations" / "postgres"
    return installed if installed.is_dir() else _PACKAGE.parents[1] / "alembic"


def upgrade(url: str, revision: str = "head") -> str | None:
    """Migrate up to a revision and return the one that is there now.

    Takes the owner's ``postgresql://`` URL. Raises ``MigrationError``.
    """
    with locked_connection(url) as connection:
        command.upgrade(_config(connection), revision)
        return _current(connection)


def downgrade(url: str, revision: str = "base") -> str | None:
    """Migrate down to a revision and return the one that is there now, None for none. Raises as ``upgrade`` does."""
    with locked_connection(url) as connection:
        command.downgrade(_config(connection), revision)
        return _current(connection)


def current(url: str) -> str | None:
    """Return the revision that a database is at, None for none. Raises as ``upgrade`` does."""
    with locked_connection(url) as connection:
        return _current(connection)


def head() -> str | None:
    """Return the revision that this version of IBEX wants."""
    config = Config()
    _locate(config)
    return ScriptDirectory.from_config(config).get_current_head()


@contextmanager
def locked_connection(url: str) -> Iterator[Connection]:
    """Give a connection in a transaction that holds the migrations' lock; it commits at the end of the block.

    Raises ``MigrationError`` for what the database refuses in it.
    """
    engine = create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(url, connect_timeout=_CONNECT_TIMEOUT_S, application_name="ibex-migrate"),
        poolclass=NullPool,
    )
    try:
        with engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
            yield connection
    except DBAPIError as error:
        raise MigrationError(_said(error)) from None
    except CommandError as error:  # a revision that this version does not know, say
        raise MigrationError(str(error)) from None


def _said(error: DBAPIError) -> str:
    """Return what the server said of a statement; what fails before there is a server to say it has words of ours."""
    if not isinstance(error.orig, psycopg.Error):
        return type(error).__name__
    return error.orig.diag.message_primary or reason_of(error.orig)


def _config(connection: Connection) -> Config:
    config = Config()
    _locate(config)
    config.attributes["connection"] = connection
    return config


def _locate(config: Config) -> None:
    config.set_main_option("script_location", str(script_location()).replace("%", "%%"))


def _current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()
