"""How doctor_checks come out."""

from __future__ import annotations

import asyncio

import pytest

from ibex.adapters.postgres.roles import UnsafeRoleError
from ibex.domain.errors import ServiceDegradedError
from ibex.domain.record.sessions import SinkUnavailableError
from ibex.entrypoints.diagnosis import DoctorCheck, Result, Verdict, diagnose, ok

SECRET = "canary"


def failing(error: Exception) -> DoctorCheck:
    """Return an examination that ends so."""

    async def look() -> Result:
        raise error

    return DoctorCheck("it", look, "Do this.")


async def test_what_is_well_needs_no_remedy() -> None:
    """It is said in the examination's own words, with how long it took."""

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
async def test_what_fails_is_told_with_what_to_do(error: Exception, said: str) -> None:
    """In words that can hold no secret; what is not known to be without is told by its kind alone."""
    (found,) = await diagnose([failing(error)])

    assert (found.verdict, found.message, found.hint) == (Verdict.FAILED, said, "Do this.")


async def test_what_does_not_answer_is_not_waited_for() -> None:
    """And what comes after it is looked at all the same."""

    async def look() -> Result:
        await asyncio.Event().wait()
        return ok("never")

    found = await diagnose([DoctorCheck("it", look, "Do this."), failing(ValueError())], timeout_s=0.01)

    assert [finding.message for finding in found] == ["No answer within 0.01 s.", "Failed with ValueError."]


async def test_advice_is_passed_on() -> None:
    """With its own hint instead of the one for failures."""

    async def look() -> Result:
        return Result(Verdict.ADVICE, "almost", "Do that.")

    (found,) = await diagnose([DoctorCheck("it", look, "Do this.")])

    assert (found.verdict, found.hint) == (Verdict.ADVICE, "Do that.")
