"""The runner of the checks of `ibex doctor`, and the types of their results."""

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
from ibex.entrypoints.outcome import os_error_message
from ibex.entrypoints.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

TIMEOUT_S: Final = 5.0
_WITHOUT_SECRETS: Final = (UnsafeRoleError, LinkError, SinkUnavailableError, SettingsError)


class Verdict(StrEnum):
    """The outcome of a check. ``ADVICE`` and ``ABSENT`` are not failures."""

    OK = "ok"
    ADVICE = "advice"
    ABSENT = "absent"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a check. ``message`` describes the outcome; ``hint`` is the action to take, or None."""

    verdict: Verdict
    message: str
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class DoctorCheck:
    """A named check. If ``run`` raises, the check has failed, and ``hint`` is the action to take."""

    name: str
    run: Callable[[], Awaitable[Result]]
    hint: str


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a named check, and its duration in milliseconds."""

    name: str
    verdict: Verdict
    message: str
    hint: str | None
    took_ms: float


def ok(message: str) -> Result:
    """Return a successful result."""
    return Result(Verdict.OK, message)


async def diagnose(doctor_checks: Sequence[DoctorCheck], *, timeout_s: float = TIMEOUT_S) -> Sequence[Finding]:
    """Run the checks one after the other and return a finding for each, in the same order.

    A check that raises or takes longer than ``timeout_s`` is a failed finding. Errors do not propagate.
    """
    return [await _run(check, timeout_s) for check in doctor_checks]


async def _run(check: DoctorCheck, timeout_s: float) -> Finding:
    began = time.monotonic()
    try:
        async with asyncio.timeout(timeout_s):
            result = await check.run()
    except Exception as error:  # noqa: BLE001 - every error of a check is a finding
        result = Result(Verdict.FAILED, _message_of(error, timeout_s), check.hint)
    took_ms = (time.monotonic() - began) * 1_000
    return Finding(check.name, result.verdict, result.message, result.hint, took_ms)


def _message_of(error: Exception, timeout_s: float) -> str:
    """Return the message of an error that never contains a secret, such as a password in a URL; else its type."""
    match error:
        case IbexError():
            return error.message
        case TimeoutError():
            return f"No answer within {timeout_s:g} s."
        case OSError() if error.strerror:
            return os_error_message(error)
        case _:
            return str(error) if isinstance(error, _WITHOUT_SECRETS) else f"Failed with {type(error).__name__}."
