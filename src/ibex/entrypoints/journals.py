"""Operating the journals without a proxy: deliver orphaned ones, and deliver dead letters again (ADR 0062)."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ibex.adapters.journal.dead_letters import DeadLetter, count_dead_letters, put_back, taken_dead_letters
from ibex.adapters.journal.directories import journal_directories, journals_root
from ibex.adapters.journal.orphaned_journals import OrphanedSqliteJournals
from ibex.domain.record.delivery import CheckpointDelivery, DeliverExchanges, TraceDelivery
from ibex.domain.record.journal import Batch, Sink
from ibex.domain.record.orphaned_journals import RecoverJournals
from ibex.domain.record.recorder import record_unfinished
from ibex.domain.record.sessions import SinkRefusedError, SinkUnavailableError
from ibex.entrypoints.environments import OperatorAdapters

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from ibex.domain.ids import IdSource
    from ibex.domain.record.delivery import DeliveryObserver
    from ibex.domain.record.exchange import Exchange
    from ibex.domain.record.history import TraceHistory
    from ibex.domain.record.journal import Journal
    from ibex.domain.record.sessions import SessionStore
    from ibex.domain.record.traces import TraceSink
    from ibex.entrypoints.settings import Settings


@dataclass(frozen=True, slots=True)
class Sinks:
    """The opened stores that journals are delivered to."""

    sessions: SessionStore
    traces: TraceSink
    history: TraceHistory


@dataclass(frozen=True, slots=True)
class Replayed:
    """The numbers of dead letters of one journal, by outcome of a replay. ``reason`` is that of the last failure."""

    path: str
    delivered: int
    refused: int
    unavailable: int
    unreadable: int
    reason: str | None


@asynccontextmanager
async def opened_sinks(settings: Settings) -> AsyncIterator[Sinks]:
    """Open the stores of the settings. Raises ``MissingSettingError``."""
    settings.require("database_url", "clickhouse_url")
    adapters = OperatorAdapters()
    adapters.settings.override(settings)
    database, traces = adapters.database(), adapters.traces()
    try:
        await database.open()
        await traces.open()
        yield Sinks(adapters.sessions(), traces, traces)
    finally:
        await traces.close()
        await database.close()


async def drain(root: Path, sinks: Sinks, observer: DeliveryObserver, timeout_s: float) -> bool:
    """Deliver the orphaned journals of this user. Return whether none is left; False after the timeout in seconds."""
    ids, clock = OperatorAdapters().ids(), OperatorAdapters().clock()

    def deliveries(journal: Journal) -> Sequence[DeliverExchanges]:
        both = (CheckpointDelivery(sinks.sessions), TraceDelivery(sinks.traces))
        return [DeliverExchanges(journal, sink, observer, clock, jitter=random.random) for sink in both]

    orphaned = OrphanedSqliteJournals(root, ids)
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await RecoverJournals(orphaned, _Unfinished(ids), deliveries).drain()
            return orphaned.newer == 0
    return False


async def replay(root: Path, sinks: Sinks) -> Sequence[Replayed]:
    """Deliver the dead letters of all journals of this user again, each to the sink that has refused it.

    Letters that are refused again, or cannot be delivered now, stay dead letters. Repeating a replay, also one that was
    interrupted, stores nothing twice. Raises ``ReplayInProgressError`` or ``OSError``.
    """
    directories = [path for path in journal_directories(journals_root(root)) if count_dead_letters(path)]
    return [await _replay(directory, sinks) for directory in directories]


async def _replay(directory: Path, sinks: Sinks) -> Replayed:
    kept: dict[str, list[DeadLetter]] = {"refused": [], "unavailable": [], "unreadable": []}
    delivered, reason = 0, None
    down: set[Sink] = set()
    with taken_dead_letters(directory) as letters:
        for letter in letters:
            if letter.sink is None or letter.exchange is None:
                kept["unreadable"].append(letter)
                continue
            if letter.sink in down:
                kept["unavailable"].append(letter)
                continue
            try:
                await _deliver(letter.sink, letter.exchange, sinks)
            except SinkRefusedError as error:
                kept["refused"].append(letter)
                reason = str(error)
            except SinkUnavailableError as error:
                down.add(letter.sink)
                kept["unavailable"].append(letter)
                reason = str(error)
            else:
                delivered += 1
        put_back(directory, [letter for group in kept.values() for letter in group])
    counts = {name: len(group) for name, group in kept.items()}
    return Replayed(str(directory), delivered, reason=reason, **counts)


async def _deliver(sink: Sink, exchange: Exchange, sinks: Sinks) -> None:
    """Deliver one exchange. A checkpoint has its id, and a trace is looked up first, so neither is stored twice."""
    batch = Batch(f"dead-letter-{exchange.id}", 0, [exchange])
    if sink is Sink.CHECKPOINTS:
        await CheckpointDelivery(sinks.sessions).deliver(batch)
    elif not await _has_trace(sinks.history, exchange):
        await TraceDelivery(sinks.traces).deliver(batch)


async def _has_trace(history: TraceHistory, exchange: Exchange) -> bool:
    if exchange.caller is None:
        return False
    found = await history.find(exchange.caller.org_id, exchange.request_id)
    return (exchange.emitter_id, exchange.emitter_seq) in {(trace.emitter_id, trace.emitter_seq) for trace in found}


class _Unfinished:
    """Records the unfinished exchanges of a journal; see ``RecordsUnfinished``."""

    def __init__(self, ids: IdSource) -> None:
        self._ids = ids

    async def recover(self, journal: Journal) -> None:
        await record_unfinished(journal, self._ids)
