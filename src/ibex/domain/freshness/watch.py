"""A worker's watch: one stream of changes from an auth replica, with a ping (heartbeat) every half second."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

from ibex.domain.freshness.change_log import Events, Pong, SourceUnavailable, StreamStart
from ibex.domain.freshness.kinds import NS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from ibex.domain.clock import Clock
    from ibex.domain.freshness.change_log import Change, WatchMessage
    from ibex.domain.freshness.validity import Validity

PING_INTERVAL_S: Final = 0.5
SILENCE_S: Final = 1.5
"""A stream that has delivered nothing for this long is replaced."""
FIRST_BACKOFF_S: Final = 0.05
MAX_BACKOFF_S: Final = 1.0


class StreamLostError(Exception):
    """The stream has ended, or could not be opened."""


class WatchStream(Protocol):
    """Port: the worker's end of one stream to an auth replica."""

    def ping(self, number: int) -> None:
        """Queue a ping. Never blocks and never raises."""

    def __aiter__(self) -> AsyncIterator[WatchMessage]:
        """Iterate over the replica's messages, in order. Raises ``StreamLostError`` when the stream ends."""


class WatchConnector(Protocol):
    """Port: opens streams."""

    def open(self, position: str | None) -> AbstractAsyncContextManager[WatchStream]:
        """Return a stream to a replica. With several replicas, it is not the one of the last stream.

        The stream resumes from ``position``; None for a first stream. Raises ``StreamLostError`` on entry.
        """


class WatchListener(Protocol):
    """Port: receives the events and pongs of a watch. Never raises, never blocks."""

    def reset(self) -> None:
        """Handle a stream that began without resuming: changes may have been missed."""

    def changed(self, change: Change) -> None:
        """Handle a change."""

    def confirmed(self, ping_sent_ns: int) -> None:
        """Handle a pong, whose ping was sent at ``ping_sent_ns``."""


class Watch:
    """Keeps one stream open, and passes its messages on to ``validity`` and the listeners.

    The watch remembers the position of the last pong. A new stream starts there, and repeats any later event.
    """

    def __init__(
        self,
        connector: WatchConnector,
        validity: Validity,
        clock: Clock,
        jitter: Callable[[], float],
        listeners: Sequence[WatchListener] = (),
    ) -> None:
        """Set the ports; ``jitter`` returns a random number from 0 to 1."""
        self._connector = connector
        self._validity = validity
        self._clock = clock
        self._jitter = jitter
        self._listeners = listeners
        self._position: str | None = None
        self._last_ping = 0
        self._sent_ns: dict[int, int] = {}
        self._last_message_ns = 0
        self._should_reconnect = False
        self._waiters: dict[asyncio.Future[None], int] = {}
        self._backoff_s = FIRST_BACKOFF_S

    async def run(self) -> None:
        """Keep a stream open until cancelled."""
        while True:
            with suppress(StreamLostError, TimeoutError):
                await self._follow_one()
            await asyncio.sleep(self._backoff_s * (0.5 + self._jitter() / 2))
            self._backoff_s = min(2 * self._backoff_s, MAX_BACKOFF_S)

    async def pong_after(self, began_ns: int) -> None:
        """Wait until a pong has confirmed a time after ``began_ns``."""
        if self._validity.confirmed_ns > began_ns:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = began_ns
        try:
            await waiter
        finally:
            self._waiters.pop(waiter, None)

    async def _follow_one(self) -> None:
        self._sent_ns.clear()
        self._last_message_ns, self._should_reconnect = self._clock.monotonic_ns(), False
        async with asyncio.timeout(SILENCE_S) as connecting, self._connector.open(self._position) as stream:
            connecting.reschedule(None)
            receiving = asyncio.ensure_future(self._receive(stream))
            try:
                while not self._should_reconnect and not receiving.done() and not self._is_silent():
                    self._ping(stream)
                    await asyncio.wait([receiving], timeout=PING_INTERVAL_S)
            finally:
                receiving.cancel()
                await asyncio.gather(receiving, return_exceptions=True)

    def _is_silent(self) -> bool:
        return self._clock.monotonic_ns() - self._last_message_ns > int(SILENCE_S * NS)

    def _ping(self, stream: WatchStream) -> None:
        self._last_ping += 1
        self._sent_ns[self._last_ping] = self._clock.monotonic_ns()
        stream.ping(self._last_ping)

    async def _receive(self, stream: WatchStream) -> None:
        async for message in stream:
            self._last_message_ns = self._clock.monotonic_ns()
            self.take(message, self._last_message_ns)
            if self._should_reconnect:
                return

    def take(self, message: WatchMessage, now_ns: int) -> None:
        """Process one message of the current stream."""
        match message:
            case StreamStart():
                self._validity.invalidate_all(now_ns)
                for listener in self._listeners:
                    listener.reset()
            case Events(changes):
                for change in changes:
                    self._validity.invalidate(change.kind, change.org_id, now_ns)
                    for listener in self._listeners:
                        listener.changed(change)
            case Pong(ping, position):
                self._confirm(ping, position)
            case SourceUnavailable():
                self._should_reconnect = True

    def _confirm(self, ping: int, position: str) -> None:
        self._position = position
        self._backoff_s = FIRST_BACKOFF_S
        sent_ns = self._sent_ns.pop(ping, None)
        if sent_ns is None:
            return
        for earlier in [number for number in self._sent_ns if number < ping]:
            del self._sent_ns[earlier]
        self._validity.confirm(sent_ns)
        for listener in self._listeners:
            listener.confirmed(sent_ns)
        for waiter, began_ns in self._waiters.items():
            if began_ns < sent_ns and not waiter.done():
                waiter.set_result(None)
