"""Tests of the current request, of which each task has its own."""

from __future__ import annotations

import asyncio
from uuid import UUID

from ibex.adapters.telemetry.current_request import CURRENT, CurrentRequest


async def test_a_task_inherits_the_request_of_the_task_that_started_it() -> None:
    """Two concurrent requests do not see each other."""

    async def request(number: int) -> tuple[int, int]:
        CURRENT.set(CurrentRequest(UUID(int=number), "0" * 32))
        await asyncio.sleep(0)
        started = await asyncio.create_task(seen())
        return started, await seen()

    async def seen() -> int:
        await asyncio.sleep(0)
        current = CURRENT.get()
        return current.request_id.int if current is not None else 0

    both = tuple(await asyncio.gather(*(asyncio.create_task(request(number)) for number in (1, 2))))

    assert both == ((1, 1), (2, 2))
    assert await seen() == 0
