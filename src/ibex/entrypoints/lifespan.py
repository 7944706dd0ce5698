"""Opening and closing what runs, in order and in reverse."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol

from ibex.domain.record.journal import JournalFullError, JournalUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from ibex.domain.record.delivery import DeliverExchanges
    from ibex.domain.record.journal import Journal
    from ibex.domain.record.recorder import Recorder
    from ibex.entrypoints.containers import Application

_LOG = logging.getLogger("ibex.lifespan")
FLUSH_TIMEOUT_S = 5.0
OPEN_AGAIN_S = 1.0


@asynccontextmanager
async def running(application: Application, *, open_again_s: float = OPEN_AGAIN_S) -> AsyncIterator[None]:
    """Hold open what serving requests needs. Afterwards: settle, flush both sinks within a bound, close; spans last.

    What a sink cannot take within the bound stays in the journal for the next start. A journal whose disk has no room
    is tried again every so many seconds; meanwhile requests are served, and what they leave is lost and counted.
    """
    adapters = application.adapters
    async with AsyncExitStack() as stack:
        spans = application.span_export()
        if spans is not None:
            stack.push_async_callback(spans.close)
            await spans.open()
        background = [
            *adapters.background(),
            application.watch(),
            application.token_filter(),
            application.recover_journals(),
            application.abandon_idle_sessions(),
        ]
        for resource in adapters.resources():
            stack.push_async_callback(resource.close)
            try:
                await resource.open()
            except JournalFullError as full:
                _LOG.error("serving without a journal until its disk has room: %s", full)
                background.append(_LateJournal(resource, application.recorder(), open_again_s))
        stack.push_async_callback(adapters.transport().aclose)
        await _recover(application.recorder(), adapters.journal())
        await stack.enter_async_context(working(background))
        await stack.enter_async_context(delivering(application.deliveries()))
        stack.push_async_callback(application.recorder().drain)
        yield


async def _recover(recorder: Recorder, journal: Journal) -> None:
    with suppress(JournalUnavailableError):  # what cannot be settled now is found again by the next start
        await recorder.recover(journal)


class _LateJournal:
    """Opens a journal whose disk had no room at the start: a worker that was killed then must not stay away for it."""

    def __init__(self, journal: Any, recorder: Recorder, every_s: float) -> None:
        self._journal = journal
        self._recorder = recorder
        self._every_s = every_s

    async def run(self) -> None:
        """Try until it is open, then settle what was left in it."""
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self._journal.open()
            except JournalUnavailableError:
                continue
            _LOG.info("the journal is open")
            await _recover(self._recorder, self._journal)
            return


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
