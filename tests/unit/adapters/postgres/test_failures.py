"""The table of vendor errors."""

from __future__ import annotations

from types import SimpleNamespace

import psycopg
import pytest
from psycopg import errors
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from ibex.adapters.postgres.failures import _BY_CONSTRAINT, domain_error
from ibex.adapters.postgres.tables import METADATA
from ibex.domain.errors import InternalError, NotFoundError, ServiceDegradedError
from ibex.domain.identity.management import AlreadyExistsError


@pytest.mark.parametrize(
    ("vendor", "meaning"),
    [
        (psycopg.OperationalError, ServiceDegradedError),
        (PoolTimeout, ServiceDegradedError),
        (PoolClosed, ServiceDegradedError),
        (TooManyRequests, ServiceDegradedError),
        (errors.QueryCanceled, ServiceDegradedError),
        (errors.AdminShutdown, ServiceDegradedError),
        (errors.DeadlockDetected, ServiceDegradedError),
        (errors.ReadOnlySqlTransaction, ServiceDegradedError),
        (errors.UndefinedTable, ServiceDegradedError),
        (errors.UndefinedColumn, ServiceDegradedError),
        (errors.UniqueViolation, AlreadyExistsError),
        (errors.ForeignKeyViolation, NotFoundError),
        (errors.CheckViolation, InternalError),
        (errors.InsufficientPrivilege, InternalError),
        (psycopg.DataError, InternalError),
    ],
)
def test_every_vendor_error_has_a_meaning(vendor: type[psycopg.Error], meaning: type[Exception]) -> None:
    """An outage is retryable, a refused statement is a bug, a clash is what the port says; its text is left out."""
    found = domain_error(vendor("a row with its SECRET"))
    assert type(found) is meaning
    assert "SECRET" not in str(found)


class _TakenName(errors.UniqueViolation):
    """What PostgreSQL says when an organization's name is taken."""

    @property
    def diag(self) -> SimpleNamespace:  # type: ignore[override] # a real one only comes from a server
        """Return the constraint that was hit."""
        return SimpleNamespace(constraint_name="uq_organizations_name")


def test_a_known_constraint_says_what_is_taken() -> None:
    """The message is for operators and names no value."""
    found = domain_error(_TakenName("Key (name)=(SECRET) already exists."))
    assert isinstance(found, AlreadyExistsError)
    assert str(found) == "An organization with this name already exists."


def test_every_named_constraint_exists() -> None:
    """A constraint that is renamed takes its message along."""
    names = {constraint.name for table in METADATA.tables.values() for constraint in table.constraints}
    assert names >= set(_BY_CONSTRAINT)
