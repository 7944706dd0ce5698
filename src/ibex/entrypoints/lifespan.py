"""Opening and closing what runs, in order and in reverse."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from ibex.domain.deliver_exchanges import DeliverExchanges
    from ibex.entrypoints.containers import Application

FLUSH_TIMEOUT_S = 5.0


@asynccontextmanager
async def running(application: Application) -> AsyncIterator[None]:
    """Hold open what serving requests needs. Afterwards: settle, flush both sinks within a bound, close.

    What a sink cannot take within the bound stays in the journal for the next start.
    """
    adapters = application.adapters
    async with AsyncExitStack() as stack:
        for resource in adapters.resources():
            stack.push_async_callback(resource.close)
            await resource.open()
        stack.push_async_callback(adapters.transport().aclose)
        await stack.enter_async_context(working(adapters.background()))
        await stack.enter_async_context(delivering(application.deliveries()))
        stack.push_async_callback(application.settle_exchange().drain)
        yield


class Work(Protocol):
    """Something that goes on until it is cancelled."""

    async def run(self) -> None:
        """Go on."""


@asynccontextmanager
async def working(work: Sequence[Work]) -> AsyncIterator[None]:
    """Let work go on in the background; at the end it is over."""
    tasks = [asyncio.create_task(one.run()) for one in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def delivering(deliveries: Sequence[DeliverExchanges]) -> AsyncIterator[None]:
    """Deliver in the background; at the end give each sink what is left, within the bound."""
    try:
        async with working(deliveries):
            yield
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_TIMEOUT_S):
                await asyncio.gather(*(delivery.flush() for delivery in deliveries))
