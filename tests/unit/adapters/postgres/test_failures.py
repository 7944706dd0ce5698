"""Tests of the mapping from psycopg's errors to the domain's errors."""

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
        (errors.UndefinedFunction, ServiceDegradedError),
        (errors.UniqueViolation, AlreadyExistsError),
        (errors.ForeignKeyViolation, NotFoundError),
        (errors.CheckViolation, InternalError),
        (errors.InsufficientPrivilege, InternalError),
        (psycopg.DataError, InternalError),
    ],
)
def test_every_psycopg_error_maps_to_a_domain_error(vendor: type[psycopg.Error], meaning: type[Exception]) -> None:
    """An outage is retryable, and a rejected statement is a bug. The domain error omits PostgreSQL's own text."""
    found = domain_error(vendor("a row with its SECRET"))
    assert type(found) is meaning
    assert "SECRET" not in str(found)


class _TakenName(errors.UniqueViolation):
    """PostgreSQL's error for the name of an existing organization."""

    @property
    def diag(self) -> SimpleNamespace:  # type: ignore[override] # only a server creates a real one
        """Return the violated constraint."""
        return SimpleNamespace(constraint_name="uq_organizations_name")


def test_a_known_constraint_has_a_specific_message() -> None:
    """The message is for operators and contains no value."""
    found = domain_error(_TakenName("Key (name)=(SECRET) already exists."))
    assert isinstance(found, AlreadyExistsError)
    assert str(found) == "An organization with this name already exists."


def test_every_named_constraint_exists() -> None:
    """Renaming a constraint requires a change of this mapping."""
    names = {constraint.name for table in METADATA.tables.values() for constraint in table.constraints}
    assert names >= set(_BY_CONSTRAINT)
