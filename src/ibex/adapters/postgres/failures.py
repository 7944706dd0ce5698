"""The table that translates psycopg's errors to domain errors.

Messages name the kind of failure and never contain a value. PostgreSQL's own messages quote the row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import psycopg
from psycopg import errors

from ibex.domain.errors import InternalError, NotFoundError, ServiceDegradedError
from ibex.domain.identity.management import AlreadyExistsError

if TYPE_CHECKING:
    from collections.abc import Mapping

_BY_CONSTRAINT: Final[Mapping[str, tuple[type[Exception], str]]] = {
    "uq_organizations_name": (AlreadyExistsError, "An organization with this name already exists."),
    "uq_users_email_org_id": (AlreadyExistsError, "The organization already has a user with this e-mail address."),
    "uq_agents_name_org_id": (AlreadyExistsError, "The organization already has an agent with this name."),
    "fk_users_org_id": (NotFoundError, "There is no such organization."),
    "fk_agents_org_id": (NotFoundError, "There is no such organization."),
    "fk_tokens_org_id": (NotFoundError, "There is no such organization."),
    "fk_tokens_user_id_org_id": (NotFoundError, "The organization has no such user."),
    "fk_tokens_agent_id_org_id": (NotFoundError, "The organization has no such agent."),
}

_DOWN = "The database is not available"
_BUG = "The database rejected a statement"
# The first matching entry applies. A missing table, column or function and a read-only standby are outages. Any other
# statement that PostgreSQL rejects is a bug in IBEX.
_BY_CLASS: Final[tuple[tuple[type[psycopg.Error], type[Exception], str], ...]] = (
    (errors.UniqueViolation, AlreadyExistsError, "It already exists"),
    (errors.ForeignKeyViolation, NotFoundError, "A record that it refers to does not exist"),
    (errors.UndefinedTable, ServiceDegradedError, "The database has not been migrated"),
    (errors.UndefinedColumn, ServiceDegradedError, "The database has not been migrated to this version of IBEX"),
    (errors.UndefinedFunction, ServiceDegradedError, "The database has not been migrated to this version of IBEX"),
    (psycopg.IntegrityError, InternalError, _BUG),
    (psycopg.DataError, InternalError, _BUG),
    (psycopg.ProgrammingError, InternalError, _BUG),
    (psycopg.Error, ServiceDegradedError, _DOWN),
)


def domain_error(error: psycopg.Error) -> Exception:
    """Return the domain error for a psycopg error: by the violated constraint, or else by the error's class."""
    constraint = error.diag.constraint_name
    known = _BY_CONSTRAINT.get(constraint or "")
    if known is not None:
        kind, message = known
        return kind(message)
    kind, message = next((kind, message) for vendor, kind, message in _BY_CLASS if isinstance(error, vendor))
    return kind(f"{message} ({type(error).__name__}{f', {constraint}' if constraint else ''}).")
