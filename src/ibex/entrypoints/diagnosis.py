"""The checks of `ibex doctor`, and their results."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from ibex.adapters.postgres.roles import UnsafeRoleError
from ibex.adapters.redis.link import LinkError
from ibex.domain.errors import IbexError
from ibex.domain.record.sessions import SinkUnavailableError
from ibex.entrypoints.outcome import said_of_the_system
from ibex.entrypoints.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

TIMEOUT_S: Final = 5.0
_SAY_NO_SECRET: Final = (UnsafeRoleError, LinkError, SinkUnavailableError, SettingsError)


class Verdict(StrEnum):
    """How an examination came out: ``advice`` and ``absent`` are no failures."""

    OK = "ok"
    ADVICE = "advice"
    ABSENT = "absent"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Result:
    """What an examination says of what it has looked at; ``hint`` is what to do, None where nothing is."""

    verdict: Verdict
    said: str
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class DoctorCheck:
    """One thing to look at. What is raised by ``look`` is a failure, for which ``hint`` is what to do."""

    name: str
    look: Callable[[], Awaitable[Result]]
    hint: str


@dataclass(frozen=True, slots=True)
class Finding:
    """How one examination came out, and how many milliseconds it took."""

    name: str
    verdict: Verdict
    said: str
    hint: str | None
    took_ms: float


def ok(said: str) -> Result:
    """Return that all is well."""
    return Result(Verdict.OK, said)


async def diagnose(doctor_checks: Sequence[DoctorCheck], *, timeout_s: float = TIMEOUT_S) -> Sequence[Finding]:
    """Examine everything, one after the other, each for so long at most. Raises nothing of what goes wrong."""
    return [await _examine(examination, timeout_s) for examination in doctor_checks]


async def _examine(examination: DoctorCheck, timeout_s: float) -> Finding:
    began = time.monotonic()
    try:
        async with asyncio.timeout(timeout_s):
            result = await examination.look()
    except Exception as error:  # noqa: BLE001 - that it is there to be told
        result = Result(Verdict.FAILED, _said(error, timeout_s), examination.hint)
    took_ms = (time.monotonic() - began) * 1_000
    return Finding(examination.name, result.verdict, result.said, result.hint, took_ms)


def _said(error: Exception, timeout_s: float) -> str:
    """Return an error's words where they are known to hold no secret, such as a URL's password; else its kind."""
    match error:
        case IbexError():
            return error.message
        case TimeoutError():
            return f"There was no answer within {timeout_s:g} s."
        case OSError() if error.strerror:
            return said_of_the_system(error)
        case _:
            return str(error) if isinstance(error, _SAY_NO_SECRET) else f"It failed ({type(error).__name__})."
