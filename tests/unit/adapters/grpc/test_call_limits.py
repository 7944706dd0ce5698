"""Tests of concurrency limits, and of calls that have not sent their message yet."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from ibex.adapters.grpc.call_limits import CallKind, CallLimits, PendingCalls
from ibex.adapters.grpc.server import MAX_CONNECTIONS, connections_within
from ibex.adapters.grpc.statuses import TooManyCallsError
from ibex.domain.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Caller:
    """A caller that sends its message when the test allows it."""

    def __init__(self) -> None:
        self.send = asyncio.Event()
        self.asked = asyncio.Event()

    async def requests(self) -> AsyncIterator[bytes]:
        """Wait, then yield the message."""
        self.asked.set()
        await self.send.wait()
        yield b"message"


@pytest.mark.parametrize("full", CallKind)
def test_a_full_limit_does_not_affect_other_kinds_of_calls(full: CallKind) -> None:
    """One more call of the same kind is refused until a running one has ended."""
    limits = CallLimits(1, 1, 1, 1).by_kind()
    with limits[full]:
        for kind, limit in limits.items():
            if kind is full:
                with pytest.raises(TooManyCallsError), limit:
                    raise AssertionError
            else:
                with limit:
                    pass
    with limits[full]:
        pass


async def test_beyond_the_maximum_the_oldest_pending_call_is_refused() -> None:
    """The other calls get their messages."""
    pending, callers = PendingCalls(2), [Caller() for _ in range(3)]
    waiting = []
    for caller in callers:
        waiting.append(asyncio.create_task(pending.first_message(caller.requests())))
        await caller.asked.wait()

    with pytest.raises(TooManyCallsError):
        await waiting[0]
    for caller in callers[1:]:
        caller.send.set()
    assert await asyncio.gather(*waiting[1:]) == [b"message"] * 2


async def test_a_callers_own_deadline_stays_a_timeout() -> None:
    """It does not become a refusal, and the call leaves the table of pending calls."""
    pending = PendingCalls(1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await pending.first_message(Caller().requests())

    caller = Caller()
    caller.send.set()
    assert await pending.first_message(caller.requests()) == b"message"


async def test_a_call_without_a_message_is_invalid() -> None:
    """The request is invalid."""

    async def nothing() -> AsyncIterator[bytes]:
        return
        yield b""

    with pytest.raises(ValidationError):
        await PendingCalls().first_message(nothing())


@pytest.mark.parametrize(("descriptors", "most"), [(0, 1), (256, 42), (1_024, 298), (1 << 20, MAX_CONNECTIONS)])
def test_connections_fit_into_the_limit_of_descriptors(descriptors: int, most: int) -> None:
    """Each connection takes three, and some are reserved for other uses of the process."""
    assert connections_within(descriptors, 128) == most
