"""The log of committed changes, and the server of the watch, which answers pings from it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

from ibex.domain.value_object import value_object

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from uuid import UUID

    from ibex.domain.freshness.kinds import Kind


PRUNE_INTERVAL_S: Final = 60.0


class ChangeLogUnavailableError(Exception):
    """The change log cannot be read or pruned now."""


@value_object
class Change:
    """One committed change of an organization's tokens, agents or directives.

    ``live_token`` is the token that the change created or restored; None for every other change.
    """

    org_id: UUID
    kind: Kind
    live_token: UUID | None = None


@value_object
class ChangesRead:
    """The result of one read of the log: the position that it reached, and the changes since the given position.

    ``changes`` is None if the reader cannot resume from that position. Then it may have missed any change.
    """

    position: str
    changes: Sequence[Change] | None


class ChangeLog(Protocol):
    """Port: the log of committed changes, which any number of readers follow."""

    async def read(self, since: str | None) -> ChangesRead:
        """Return every change that was committed after ``since`` and before this call began, and the new position.

        Equal changes may be returned as one. ``since`` is a position that a read returned, or None for a first read,
        which returns only a position (``changes`` is None). A read cannot resume from a position of another incarnation
        of the database, or from one that is older than the log: then ``changes`` is None as well. Never reads from a
        server in recovery. Raises ``ChangeLogUnavailableError`` within two seconds.
        """


class PrunableLog(Protocol):
    """Port: a log that keeps changes for an hour."""

    async def prune(self) -> None:
        """Delete the changes older than the log's horizon. Idempotent. Raises ``ChangeLogUnavailableError``."""


class PruneChanges:
    """Prunes the log once a minute. Every auth replica runs this; concurrent runs are safe."""

    def __init__(self, log: PrunableLog, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Set the log; ``sleep`` waits for seconds."""
        self._log = log
        self._sleep = sleep

    async def run(self) -> None:
        """Prune until cancelled."""
        while True:
            await self._sleep(PRUNE_INTERVAL_S)
            with suppress(ChangeLogUnavailableError):
                await self._log.prune()


@value_object
class StreamStart:
    """The first message of a stream that does not resume: any entry in the worker's caches may be outdated."""

    position: str


@value_object
class Events:
    """Changes, in any order; they may repeat earlier ones."""

    changes: Sequence[Change]


@value_object
class Pong:
    """The answer to a ping: every change that was committed before the ping arrived has been sent."""

    ping: int
    position: str


@value_object
class SourceUnavailable:
    """The replica cannot read the log. The worker should ask another replica."""


WatchMessage = StreamStart | Events | Pong | SourceUnavailable


class WatchClient(Protocol):
    """Port: the server's end of one worker's stream."""

    def send(self, message: WatchMessage) -> None:
        """Queue a message. Messages arrive in order, or the stream ends. Never blocks and never raises."""


class WatchServer:
    """Serves the streams of all workers of one auth replica.

    A read of the log answers every ping that had arrived when the read began, of all streams that are at the same
    position. In a steady state that is one read per round for any number of workers.
    """

    def __init__(self, log: ChangeLog) -> None:
        self._log = log
        self._positions: dict[WatchClient, str | None] = {}
        self._pings: dict[WatchClient, int] = {}
        self._has_pings = asyncio.Event()

    def open(self, client: WatchClient, position: str | None) -> None:
        """Add a stream that resumes from ``position``; None for a stream that has no position yet."""
        self._positions[client] = position

    def close(self, client: WatchClient) -> None:
        """Remove a stream. Idempotent."""
        self._positions.pop(client, None)
        self._pings.pop(client, None)

    def ping(self, client: WatchClient, number: int) -> None:
        """Queue a ping of a stream. A later ping of the same stream replaces one that is not answered yet."""
        if client in self._positions:
            self._pings[client] = number
            self._has_pings.set()

    async def run(self) -> None:
        """Answer pings until cancelled."""
        while True:
            await self._has_pings.wait()
            self._has_pings.clear()
            await self.answer()

    async def answer(self) -> None:
        """Answer every ping that has arrived."""
        pings, self._pings = self._pings, {}
        groups: defaultdict[str | None, list[WatchClient]] = defaultdict(list)
        for client in pings:
            groups[self._positions.get(client)].append(client)
        reads = await asyncio.gather(*(self._read(since) for since in groups))
        for clients, read in zip(groups.values(), reads, strict=True):
            for client in clients:
                if client in self._positions:
                    self._answer(client, pings[client], read)

    def _answer(self, client: WatchClient, ping: int, read: ChangesRead | None) -> None:
        if read is None:
            client.send(SourceUnavailable())
            return
        self._positions[client] = read.position
        if read.changes is None:
            client.send(StreamStart(read.position))
        elif read.changes:
            client.send(Events(read.changes))
        client.send(Pong(ping, read.position))

    async def _read(self, since: str | None) -> ChangesRead | None:
        try:
            return await self._log.read(since)
        except ChangeLogUnavailableError:
            return None
