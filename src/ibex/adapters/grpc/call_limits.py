"""Concurrency limits, one for each kind of call, so that no kind can starve another (ADR 0038)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from ibex.adapters.grpc.statuses import TooManyCallsError
from ibex.domain.errors import FieldCode, FieldError, ValidationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from types import TracebackType

MAX_WAITING: Final = 256


class CallKind(Enum):
    """The kinds of methods, each with its own concurrency limit."""

    VALIDATION = "validation"
    ADMINISTRATION = "administration"
    HEALTH = "health"
    WATCH = "watch"


KIND_OF: Final[Mapping[str, CallKind]] = {
    "/ibex.auth.v1.AuthService/ValidateToken": CallKind.VALIDATION,
    "/ibex.auth.v1.AuthService/ValidateAgent": CallKind.VALIDATION,
    "/ibex.auth.v1.AuthService/TokenFilter": CallKind.VALIDATION,
    "/ibex.auth.v1.AuthService/Watch": CallKind.WATCH,
    "/ibex.auth.v1.AuthService/CreateToken": CallKind.ADMINISTRATION,
    "/ibex.auth.v1.AuthService/RevokeToken": CallKind.ADMINISTRATION,
    "/ibex.auth.v1.AuthService/ListTokens": CallKind.ADMINISTRATION,
    "/grpc.health.v1.Health/Check": CallKind.HEALTH,
}
"""All methods that auth serves. Any other method is UNIMPLEMENTED."""


@dataclass(frozen=True, slots=True)
class CallLimits:
    """The maximum number of concurrent calls of each kind. Calls beyond it fail at once with RESOURCE_EXHAUSTED."""

    validation: int = 1_000
    administration: int = 16
    health: int = 100
    watch: int = 4_000

    def by_kind(self) -> Mapping[CallKind, ConcurrencyLimit]:
        """Return a new concurrency limit for each kind."""
        return {
            CallKind.VALIDATION: ConcurrencyLimit(self.validation),
            CallKind.ADMINISTRATION: ConcurrencyLimit(self.administration),
            CallKind.HEALTH: ConcurrencyLimit(self.health),
            CallKind.WATCH: ConcurrencyLimit(self.watch),
        }


class ConcurrencyLimit:
    """A context manager around each call. Raises ``TooManyCallsError`` if ``max_calls`` calls are running."""

    def __init__(self, max_calls: int) -> None:
        self._free = max_calls

    def __enter__(self) -> None:
        if self._free < 1:
            raise TooManyCallsError
        self._free -= 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._free += 1


async def first_message(requests: AsyncIterator[bytes]) -> bytes:
    """Return a unary call's message. Raises ``ValidationError`` if the caller ended the call without one."""
    try:
        return await anext(requests)
    except StopAsyncIteration:
        raise ValidationError((FieldError("message", FieldCode.REQUIRED, "is missing"),)) from None


class PendingCalls:
    """Unauthenticated calls that have not sent their message yet. Beyond the maximum, the oldest call is refused.

    An ordinary client sends the message together with the headers, so its call does not wait here.
    """

    def __init__(self, max_calls: int = MAX_WAITING) -> None:
        self._max_calls = max_calls
        self._waiting: dict[asyncio.Timeout, None] = {}

    async def first_message(self, requests: AsyncIterator[bytes]) -> bytes:
        """Return the call's message.

        Raises ``ValidationError`` if the caller sends none, and ``TooManyCallsError`` if newer calls replace this one.
        """
        timeout = asyncio.timeout(None)
        try:
            async with timeout:
                if len(self._waiting) >= self._max_calls:
                    oldest = next(iter(self._waiting))
                    del self._waiting[oldest]
                    oldest.reschedule(0)
                self._waiting[timeout] = None
                return await first_message(requests)
        except TimeoutError:
            if timeout.expired():
                raise TooManyCallsError from None
            raise
        finally:
            self._waiting.pop(timeout, None)
