"""Schema migrations of a database, up and down, with Alembic, as the owner of the tables.

Each run is one transaction under an advisory lock. Concurrent runs wait for each other; a failed run changes nothing.
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

from ibex.adapters.postgres.reachable import TooOldError, check_version, reason_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

_LOCK_KEY: Final = 0x69626578  # "ibex"; any number that every version agrees on
_CONNECT_TIMEOUT_S: Final = 5
_PACKAGE = Path(__file__).parents[2]


class MigrationError(Exception):
    """PostgreSQL could not be migrated. The message contains no secret."""


def script_location() -> Path:
    """Return the directory of the migrations: inside the installed package, or at the top of the source tree."""
    installed = _PACKAGE / "_migrations" / "postgres"
    return installed if installed.is_dir() else _PACKAGE.parents[1] / "alembic"


def upgrade(url: str, revision: str = "head") -> str | None:
    """Migrate up to a revision and return the revision that the database then has.

    ``url`` is the ``postgresql://`` URL of the tables' owner. Raises ``MigrationError``.
    """
    with locked_connection(url) as connection:
        command.upgrade(_config(connection), revision)
        return _current(connection)


def downgrade(url: str, revision: str = "base") -> str | None:
    """Migrate down to a revision and return the database's revision, None for none. Raises ``MigrationError``."""
    with locked_connection(url) as connection:
        command.downgrade(_config(connection), revision)
        return _current(connection)


def current(url: str) -> str | None:
    """Return the revision of a database, None if it has none. Raises ``MigrationError``."""
    with locked_connection(url) as connection:
        return _current(connection)


def head() -> str | None:
    """Return the revision that this version of IBEX requires."""
    config = Config()
    _set_script_location(config)
    return ScriptDirectory.from_config(config).get_current_head()


@contextmanager
def locked_connection(url: str) -> Iterator[Connection]:
    """Yield a connection in a transaction that holds the migration lock. It commits at the end of the block.

    Raises ``MigrationError`` if the database cannot be reached or rejects a statement.
    """
    engine = create_engine("postgresql+psycopg://", creator=lambda: _connect(url), poolclass=NullPool)
    try:
        with engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
            yield connection
    except DBAPIError as error:
        raise MigrationError(_reason_of(error)) from None
    except psycopg.Error as error:  # libpq cannot parse the URL
        raise MigrationError(reason_of(error)) from None
    except TooOldError as error:
        raise MigrationError(str(error)) from None
    except CommandError as error:  # for example, a revision that this version does not contain
        raise MigrationError(str(error)) from None


def _connect(url: str) -> psycopg.Connection:
    """Connect, without prepared statements: behind a pooler, another session may have used their names."""
    connection = psycopg.connect(
        url, connect_timeout=_CONNECT_TIMEOUT_S, application_name="ibex-migrate", prepare_threshold=None
    )
    try:
        check_version(connection.info.server_version)
    except TooOldError:
        connection.close()
        raise
    return connection


def _reason_of(error: DBAPIError) -> str:
    """Return the server's message about a statement, or why no connection was made, without a secret."""
    if not isinstance(error.orig, psycopg.Error):
        return type(error).__name__
    return error.orig.diag.message_primary or reason_of(error.orig)


def _config(connection: Connection) -> Config:
    config = Config()
    _set_script_location(config)
    config.attributes["connection"] = connection
    return config


def _set_script_location(config: Config) -> None:
    config.set_main_option("script_location", str(script_location()).replace("%", "%%"))


def _current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()
