"""Opening the application's resources in order, and closing them in reverse."""

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
FLUSH_TIMEOUT_S = 15.0
RESTART_DELAY_S = 1.0
JOURNAL_RETRY_S = 1.0


@asynccontextmanager
async def running(
    application: Application, *tasks: BackgroundTask, journal_retry_s: float = JOURNAL_RETRY_S
) -> AsyncIterator[None]:
    """Open what serving requests needs. Afterwards drain the recorder, flush both sinks, and close; spans come last.

    ``tasks`` run in the background, like those of the application.

    Exchanges that a sink cannot store within ``FLUSH_TIMEOUT_S`` stay in the journal for the next start. If the disk of
    the journal is full, opening it is retried every ``journal_retry_s`` seconds. Requests are served in the meantime;
    their exchanges are lost and counted.
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
            *tasks,
        ]
        for resource in adapters.resources():
            stack.push_async_callback(resource.close)
            try:
                await resource.open()
            except JournalFullError as full:
                _LOG.error("serving without a journal, retrying: %s", full)
                background.append(_LateJournal(resource, application.recorder(), journal_retry_s))
        stack.push_async_callback(adapters.transport().aclose)
        await _recover(application.recorder(), adapters.journal())
        await stack.enter_async_context(in_background(background))
        await stack.enter_async_context(delivering(application.deliveries()))
        stack.push_async_callback(application.recorder().drain)
        yield


async def _recover(recorder: Recorder, journal: Journal) -> None:
    with suppress(JournalUnavailableError):  # the next start tries again
        await recorder.recover(journal)


class _LateJournal:
    """A background task that opens the journal once its disk has room, so that a full disk does not prevent a start."""

    def __init__(self, journal: Any, recorder: Recorder, retry_s: float) -> None:
        self._journal = journal
        self._recorder = recorder
        self._retry_s = retry_s

    async def run(self) -> None:
        """Retry until the journal is open, then record the exchanges that a former process left unfinished."""
        while True:
            await asyncio.sleep(self._retry_s)
            try:
                await self._journal.open()
            except JournalUnavailableError:
                continue
            _LOG.info("the journal is open")
            await _recover(self._recorder, self._journal)
            return


class BackgroundTask(Protocol):
    """A task that runs until it is cancelled."""

    async def run(self) -> None:
        """Run the task."""


@asynccontextmanager
async def in_background(background: Sequence[BackgroundTask]) -> AsyncIterator[None]:
    """Run tasks in the background. At the end, cancel them and wait until they have ended.

    A task that fails is logged and started again, so that a process never serves without its watch or its deliveries.
    """
    tasks = [asyncio.create_task(_keep_running(one)) for one in background]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _keep_running(task: BackgroundTask) -> None:
    while True:
        try:
            await task.run()
        except Exception as error:  # noqa: BLE001 - tasks handle the errors that they expect
            _LOG.error("%s failed (%s); it starts again", type(task).__name__, type(error).__name__)
            await asyncio.sleep(RESTART_DELAY_S)
        else:
            return


@asynccontextmanager
async def delivering(deliveries: Sequence[DeliverExchanges]) -> AsyncIterator[None]:
    """Run deliveries in the background. At the end, flush each sink within ``FLUSH_TIMEOUT_S``."""
    try:
        async with in_background(deliveries):
            yield
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_TIMEOUT_S):
                await asyncio.gather(*(delivery.flush() for delivery in deliveries))
