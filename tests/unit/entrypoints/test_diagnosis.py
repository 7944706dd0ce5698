"""The results of doctor checks."""

from __future__ import annotations

import asyncio

import pytest

from ibex.adapters.postgres.roles import UnsafeRoleError
from ibex.domain.errors import ServiceDegradedError
from ibex.domain.record.sessions import SinkUnavailableError
from ibex.entrypoints.diagnosis import DoctorCheck, Result, Verdict, diagnose, ok

SECRET = "canary"


def failing(error: Exception) -> DoctorCheck:
    """Return a check that raises this error."""

    async def look() -> Result:
        raise error

    return DoctorCheck("it", look, "Do this.")


async def test_a_passing_check_has_no_hint() -> None:
    """The finding contains the message of the check and its duration."""

    async def look() -> Result:
        return ok("it answers")

    (found,) = await diagnose([DoctorCheck("it", look, "Do this.")])

    assert (found.name, found.verdict, found.message, found.hint) == ("it", Verdict.OK, "it answers", None)
    assert found.took_ms >= 0


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ServiceDegradedError("The database is not available."), "The database is not available."),
        (UnsafeRoleError("it owns tables"), "it owns tables"),
        (SinkUnavailableError("ClickHouse is not there"), "ClickHouse is not there"),
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
        (RuntimeError(f"postgresql://me:{SECRET}@db"), "Failed with RuntimeError."),
        (OSError(f"postgresql://me:{SECRET}@db"), "Failed with OSError."),
    ],
)
async def test_a_failing_check_has_a_hint(error: Exception, said: str) -> None:
    """Only errors known to contain no secret show their message. Others show their type."""
    (found,) = await diagnose([failing(error)])

    assert (found.verdict, found.message, found.hint) == (Verdict.FAILED, said, "Do this.")


async def test_a_check_that_hangs_times_out() -> None:
    """The checks after it still run."""

    async def look() -> Result:
        await asyncio.Event().wait()
        return ok("never")

    found = await diagnose([DoctorCheck("it", look, "Do this."), failing(ValueError())], timeout_s=0.01)

    assert [finding.message for finding in found] == ["No answer within 0.01 s.", "Failed with ValueError."]


async def test_advice_keeps_its_own_hint() -> None:
    """The hint for failures is not shown."""

    async def look() -> Result:
        return Result(Verdict.ADVICE, "almost", "Do that.")

    (found,) = await diagnose([DoctorCheck("it", look, "Do this.")])

    assert (found.verdict, found.hint) == (Verdict.ADVICE, "Do that.")
