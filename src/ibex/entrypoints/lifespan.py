"""Opening and closing what runs, in order and in reverse."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING

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
        for resource in (adapters.identity_database(), adapters.database(), adapters.traces(), adapters.journal()):
            stack.push_async_callback(resource.close)
            await resource.open()
        stack.push_async_callback(adapters.transport().aclose)
        await stack.enter_async_context(delivering(application.deliveries()))
        stack.push_async_callback(application.settle_exchange().drain)
        yield


@asynccontextmanager
async def delivering(deliveries: Sequence[DeliverExchanges]) -> AsyncIterator[None]:
    """Deliver in the background; at the end give each sink what is left, within the bound."""
    tasks = [asyncio.create_task(delivery.run()) for delivery in deliveries]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_TIMEOUT_S):
                await asyncio.gather(*(delivery.flush() for delivery in deliveries))
