"""What psycopg raises, by meaning: the one table of this adapter.

Messages name the kind of failure and never a value: PostgreSQL's own quote the row.
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
    "uq_organizations_name": (AlreadyExistsError, "There is an organization of that name already."),
    "uq_users_email_org_id": (AlreadyExistsError, "The organization has a user with that e-mail address already."),
    "uq_agents_name_org_id": (AlreadyExistsError, "The organization has an agent of that name already."),
    "fk_users_org_id": (NotFoundError, "There is no such organization."),
    "fk_agents_org_id": (NotFoundError, "There is no such organization."),
    "fk_tokens_org_id": (NotFoundError, "There is no such organization."),
    "fk_tokens_user_id_org_id": (NotFoundError, "The organization has no such user."),
    "fk_tokens_agent_id_org_id": (NotFoundError, "The organization has no such agent."),
}

_DOWN = "The database is not available"
_BUG = "The database refused a statement"
# The first that fits counts. What is not there yet or not allowed at the moment (a read-only standby) is an outage; any
# other statement that PostgreSQL refuses is a bug of ours.
_BY_CLASS: Final[tuple[tuple[type[psycopg.Error], type[Exception], str], ...]] = (
    (errors.UniqueViolation, AlreadyExistsError, "There is one already"),
    (errors.ForeignKeyViolation, NotFoundError, "What it belongs to is not there"),
    (errors.UndefinedTable, ServiceDegradedError, "The database has not been migrated"),
    (errors.UndefinedColumn, ServiceDegradedError, "The database has not been migrated to this version"),
    (psycopg.IntegrityError, InternalError, _BUG),
    (psycopg.DataError, InternalError, _BUG),
    (psycopg.ProgrammingError, InternalError, _BUG),
    (psycopg.Error, ServiceDegradedError, _DOWN),
)


def domain_error(error: psycopg.Error) -> Exception:
    """Return the domain's error for a vendor's."""
    constraint = error.diag.constraint_name
    known = _BY_CONSTRAINT.get(constraint or "")
    if known is not None:
        kind, message = known
        return kind(message)
    kind, message = next((kind, message) for vendor, kind, message in _BY_CLASS if isinstance(error, vendor))
    return kind(f"{message} ({type(error).__name__}{f', {constraint}' if constraint else ''}).")
