"""Schema migrations of a database, up and down, with Alembic, as the owner of the tables.

Each run is one transaction under an advisory lock. Concurrent runs wait for each other; a failed run changes nothing.
A run never waits long for a lock on a table, because statements of the proxies would wait behind it (ADR 0060).
"""

from __future__ import annotations

import time
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
    from collections.abc import Iterator, Sequence

    from sqlalchemy import Connection

_LOCK_KEY: Final = 0x69626578  # "ibex"; any number that every version agrees on
_CONNECT_TIMEOUT_S: Final = 5
LOCK_TIMEOUT_S: Final = 1.0
LOCK_ATTEMPTS: Final = 30
_LOCK_PAUSE_S: Final = 1.0
_LOCKED: Final = ("55P03", "40P01")
"""The SQLSTATE of a lock that was not available in time, and of a deadlock."""
_PACKAGE = Path(__file__).parents[2]


class MigrationError(Exception):
    """PostgreSQL could not be migrated. The message contains no secret."""


class NewerSchemaError(MigrationError):
    """The schema is newer than this version of IBEX, so there is nothing to migrate."""


class _LockedError(MigrationError):
    """A lock was not available within ``LOCK_TIMEOUT_S``."""


def script_location() -> Path:
    """Return the directory of the migrations: inside the installed package, or at the top of the source tree."""
    installed = _PACKAGE / "_migrations" / "postgres"
    return installed if installed.is_dir() else _PACKAGE.parents[1] / "alembic"


def upgrade(url: str, revision: str = "head", *, attempts: int = LOCK_ATTEMPTS) -> str | None:
    """Migrate up to a revision and return the revision that the database then has.

    If another transaction holds a lock that the migration needs, it is tried again, ``attempts`` times in total.
    ``url`` is the ``postgresql://`` URL of the tables' owner. Raises ``MigrationError``, and ``NewerSchemaError`` if
    the database has a revision that this version does not contain.
    """
    for attempt in range(attempts):
        if attempt:
            time.sleep(_LOCK_PAUSE_S)
        try:
            with locked_connection(url) as connection:
                _pending(connection)
                connection.execute(text(f"SET LOCAL lock_timeout = {round(LOCK_TIMEOUT_S * 1_000)}"))
                command.upgrade(_config(connection), revision)
                return _current(connection)
        except _LockedError:
            continue
    raise MigrationError(
        "another transaction holds a lock that the migration needs"
        f" ({attempts} attempts, each waited {LOCK_TIMEOUT_S:.0f} s). Nothing was changed. Find that transaction in"
        " pg_stat_activity by its old xact_start, end it, and run `ibex migrate` again."
    )


def pending(url: str) -> Sequence[str]:
    """Return the revisions that ``upgrade`` would apply, in order. Changes nothing. Raises as ``upgrade`` does."""
    with _transaction(url) as connection:
        connection.execute(text("SET TRANSACTION READ ONLY"))
        return _pending(connection)


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
    with _transaction(url) as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
        yield connection


@contextmanager
def _transaction(url: str) -> Iterator[Connection]:
    engine = create_engine("postgresql+psycopg://", creator=lambda: _connect(url), poolclass=NullPool)
    try:
        with engine.begin() as connection:
            yield connection
    except DBAPIError as error:
        if isinstance(error.orig, psycopg.Error) and error.orig.sqlstate in _LOCKED:
            raise _LockedError(_reason_of(error)) from None
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


def _pending(connection: Connection) -> Sequence[str]:
    found = _current(connection)
    scripts = ScriptDirectory.from_config(_config(connection))
    known = [script.revision for script in scripts.walk_revisions()]  # the newest first
    if found is not None and found not in known:
        raise NewerSchemaError(f"the schema is at revision {found}, this version of IBEX knows those up to {known[0]}")
    return known[: known.index(found) if found is not None else None][::-1]
