"""Limits on how many calls run at a time, one for each kind, so that no kind can starve another (ADR 0038)."""

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
    """What a method is for."""

    VALIDATION = "validation"
    ADMINISTRATION = "administration"
    HEALTH = "health"


KIND_OF: Final[Mapping[str, CallKind]] = {
    "/ibex.auth.v1.AuthService/ValidateToken": CallKind.VALIDATION,
    "/ibex.auth.v1.AuthService/ValidateAgent": CallKind.VALIDATION,
    "/ibex.auth.v1.AuthService/CreateToken": CallKind.ADMINISTRATION,
    "/ibex.auth.v1.AuthService/RevokeToken": CallKind.ADMINISTRATION,
    "/ibex.auth.v1.AuthService/ListTokens": CallKind.ADMINISTRATION,
    "/grpc.health.v1.Health/Check": CallKind.HEALTH,
}
"""Every method that is served. A method that is not in it is UNIMPLEMENTED."""


@dataclass(frozen=True, slots=True)
class LaneLimits:
    """Calls of each kind at a time. One more is RESOURCE_EXHAUSTED at once."""

    validation: int = 1_000
    administration: int = 16
    health: int = 100

    def lanes(self) -> Mapping[CallKind, Lane]:
        """Return a lane for each kind."""
        return {
            CallKind.VALIDATION: Lane(self.validation),
            CallKind.ADMINISTRATION: Lane(self.administration),
            CallKind.HEALTH: Lane(self.health),
        }


class Lane:
    """So many calls at a time: a context manager for each of them. Raises ``TooManyCallsError`` if it is full."""

    def __init__(self, places: int) -> None:
        self._free = places

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


class WaitingRoom:
    """Calls that have not sent their message and have proven nothing. When it is full, the oldest is refused.

    An honest caller sends its message together with the call's headers and so waits for no time at all.
    """

    def __init__(self, places: int = MAX_WAITING) -> None:
        self._places = places
        self._waiting: dict[asyncio.Timeout, None] = {}

    async def first_message(self, requests: AsyncIterator[bytes]) -> bytes:
        """Return the message. Raises ``ValidationError``, and ``TooManyCallsError`` if others need the place."""
        gives_way = asyncio.timeout(None)
        try:
            async with gives_way:
                if len(self._waiting) >= self._places:
                    oldest = next(iter(self._waiting))
                    del self._waiting[oldest]
                    oldest.reschedule(0)
                self._waiting[gives_way] = None
                return await first_message(requests)
        except TimeoutError:
            if gives_way.expired():
                raise TooManyCallsError from None
            raise
        finally:
            self._waiting.pop(gives_way, None)
