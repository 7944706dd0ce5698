"""The shared connection to one Redis server: one pipeline for all commands of one event loop iteration.

Commands that Redis does not answer before their deadline fail, and their connection is closed: a late reply would be
taken for the reply to a later command. At most ``MAX_IN_FLIGHT`` round trips run at a time. Commands that arrive
in between go out with the next round trip; their deadline counts from their arrival. Connecting runs in the background,
with a longer timeout. Commands that arrive first wait for the connection until their deadline, and later ones are
skipped at once until it is made. A circuit breaker stops all commands for a moment after a few failures in a row.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from redis.exceptions import AskError, ClusterDownError, MovedError, NoScriptError, ReadOnlyError, ResponseError

from ibex.adapters.redis.breaker import CircuitBreaker
from ibex.adapters.redis.connection import Command, LinkError, ServerConnection, refusal_of
from ibex.adapters.redis.keys import TEXTS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from redis.asyncio.connection import AbstractConnection

    from ibex.domain.clock import Clock

TIMEOUT_S: Final = 0.05
CONNECT_TIMEOUT_S: Final = 1.0
MAX_IN_FLIGHT: Final = 2
MAX_REDIRECTS: Final = 3
_TIMEOUT_GRACE_S: Final = 0.001
"""A busy event loop runs expired timers before it reads replies that have arrived. This delay lets it read them."""


class RedisObserver(Protocol):
    """Port: receives the outcome of every round trip. Never raises, never blocks."""

    def answered(self, questions: int, duration_ns: int) -> None:
        """Record a round trip that succeeded, and how many requests it answered."""

    def failed(self, reason: str, questions: int = 1) -> None:
        """Record a round trip that failed, and how many requests it had; ``reason`` holds no key and no value."""

    def passed_over(self) -> None:
        """Record a request that was not sent, because Redis has just failed or the connection is not made yet."""


@dataclass(slots=True)
class RedisReply:
    """The reply to one command, shared by all its ``callers``. The first caller stores what it parsed in ``parsed``.

    ``asked_ns`` is the monotonic time at which the command was sent.
    """

    asked_ns: int
    reply: Any
    callers: int
    parsed: Any = None


@dataclass(slots=True)
class PendingCommand:
    """One command for all callers with the same key. ``build`` takes the number of callers and returns the command."""

    build: Callable[[int], Command]
    waiters: list[asyncio.Future[RedisReply]] = field(default_factory=list)
    redirects: int = 0
    asking: bool = False
    """Whether ASKING must precede the command, because a Cluster is moving its slot to this node."""


@dataclass(slots=True)
class _RoundTrip:
    commands: list[PendingCommand]
    connection: ServerConnection
    deadline: float
    task: asyncio.Task[None] | None = None
    timed_out: bool = False


class ServerLink:
    """The client of one server. ``execute`` does not raise; None means that Redis did not answer."""

    def __init__(
        self,
        prepare: Callable[[], Awaitable[AbstractConnection]],
        clock: Clock,
        observer: RedisObserver,
        *,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """Set the timeout of a round trip, in seconds.

        ``prepare`` finds the server and returns a connection that is not connected yet.
        """
        self._prepare = prepare
        self._clock = clock
        self._observer = observer
        self._timeout_s = timeout_s
        self._breaker = CircuitBreaker()
        self._connection: ServerConnection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._connect_deadline = 0.0
        self._pending: dict[object, PendingCommand] = {}
        self._pending_deadline: float | None = None
        self._in_flight: set[asyncio.Task[None]] = set()
        self._draining: set[asyncio.Task[None]] = set()
        self._is_closed = False
        self.on_failure: Callable[[], None] = lambda: None
        """Called for each failure, and if the server replies that another server is responsible."""
        self.redirect: Callable[[ServerLink, PendingCommand, AskError, float], None] | None = None
        """Takes a command that this Cluster node redirects to another node, and the deadline of the command."""

    async def open(self) -> None:
        """Connect, so that the first request does not have to. Does not raise if the server is down."""
        if self._connection is None or not self._connection.is_good:
            await asyncio.wait([self._start_connecting()])

    async def close(self) -> None:
        """Disconnect for good. Commands in flight, pending commands and later ones return None."""
        self._is_closed = True
        self._skip_pending()
        tasks = [*self._in_flight, *([self._connecting] if self._connecting is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self._draining, return_exceptions=True)
        if self._connection is not None:
            await self._connection.close()

    async def fresh_connection(self) -> ServerConnection:
        """Return a new connection to a server that answers. Raises ``LinkError``."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                connection = ServerConnection(await self._prepare())
                await connection.open()
                await connection.call([("PING",)])  # a frozen server accepts connections; any reply shows that it runs
        except TimeoutError:
            raise LinkError("timeout while connecting") from None
        return connection

    async def execute(self, key: object, build: Callable[[int], Command]) -> tuple[RedisReply | None, int]:
        """Send a command with all others of this event loop iteration; see ``RedisLink.execute``."""
        loop = asyncio.get_running_loop()
        if (self._connecting is not None or not self._breaker.is_closed) and not self._accepts_commands(loop):
            self._observer.passed_over()
            return None, 0
        if not self._pending:
            loop.call_soon(self._send_pending)
        command = self._pending.get(key)
        if command is None:
            command = self._pending[key] = PendingCommand(build)
        replied: asyncio.Future[RedisReply] = loop.create_future()
        command.waiters.append(replied)
        place = len(command.waiters)
        try:
            return await replied, place
        except LinkError:
            return None, place
        finally:
            del replied, command  # they may hold the error, whose traceback holds this frame (ADR 0033)

    def enqueue(self, command: PendingCommand, deadline: float) -> None:
        """Add a command that another node redirected, or that is sent again. Its deadline stays the same."""
        if not self._pending:
            asyncio.get_running_loop().call_soon(self._send_pending)
        self._pending[object()] = command
        self._pending_deadline = deadline if self._pending_deadline is None else min(deadline, self._pending_deadline)

    def reconnect(self) -> None:
        """Use a new connection for all later commands, because another server is now responsible.

        The old connection is closed after its round trips in flight.
        """
        connection, self._connection = self._connection, None
        if connection is not None:
            task = asyncio.get_running_loop().create_task(_close_after(connection, list(self._in_flight)))
            self._draining.add(task)
            task.add_done_callback(self._draining.discard)

    async def renew(self) -> None:
        """Make a new connection and use it for all later commands.

        The old connection is closed after its round trips in flight. Raises ``LinkError`` if no new connection can be
        made; the old one is kept.
        """
        if self._connecting is not None:
            await asyncio.wait([self._connecting])
        connection = await self.fresh_connection()
        if self._is_closed:
            await connection.close()
            return
        self.reconnect()
        self._connection = connection

    def _accepts_commands(self, loop: asyncio.AbstractEventLoop) -> bool:
        if self._connecting is not None and loop.time() >= self._connect_deadline:
            return False
        if self._breaker.is_closed:
            return True
        in_flight = len(self._in_flight) + (self._connecting is not None)
        return self._breaker.allows(self._clock.monotonic_ns(), in_flight)

    def _send_pending(self) -> None:
        """Start a round trip with the pending commands, or leave them pending until one can start.

        Their deadline is set by the first call.
        """
        if not self._pending:
            return
        if self._is_closed:
            self._skip_pending()
            return
        loop = asyncio.get_running_loop()
        if self._pending_deadline is None:
            self._pending_deadline = loop.time() + self._timeout_s
        if not self._breaker.is_closed and not self._breaker.allows(self._clock.monotonic_ns(), len(self._in_flight)):
            self._skip_pending()
        elif self._connection is None or not self._connection.is_good:
            self._start_connecting()
            if loop.time() >= self._connect_deadline:
                self._skip_pending()
        elif len(self._in_flight) < MAX_IN_FLIGHT:
            deadline = self._pending_deadline
            trip = _RoundTrip(self._take_pending(), self._connection, deadline)
            task = trip.task = loop.create_task(self._run(trip))
            self._in_flight.add(task)
            task.add_done_callback(self._round_trip_ended)

    def _round_trip_ended(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        if self._pending:
            asyncio.get_running_loop().call_soon(self._send_pending)

    def _take_pending(self) -> list[PendingCommand]:
        commands, self._pending, self._pending_deadline = list(self._pending.values()), {}, None
        return commands

    def _skip_pending(self) -> None:
        """Return None to all pending callers without asking Redis."""
        commands = self._take_pending()
        for _ in range(_count_waiters(commands)):
            self._observer.passed_over()
        _fail_waiters(commands)

    def _start_connecting(self) -> asyncio.Task[None]:
        if self._connecting is None:
            loop = asyncio.get_running_loop()
            self._connect_deadline = loop.time() + self._timeout_s
            loop.call_at(self._connect_deadline, self._send_pending)
            self._connecting = loop.create_task(self._connect())
        return self._connecting

    async def _connect(self) -> None:
        try:
            self._connection = await self.fresh_connection()
        except LinkError as error:
            commands = self._take_pending()
            self._record_failure(str(error), commands)
            _fail_waiters(commands)
        finally:
            self._connecting = None
            if self._pending:
                asyncio.get_running_loop().call_soon(self._send_pending)

    async def _run(self, trip: _RoundTrip) -> None:
        """Make one round trip and complete the future of every waiter, whatever happens."""
        loop = asyncio.get_running_loop()
        timer = loop.call_at(trip.deadline, lambda: loop.call_later(_TIMEOUT_GRACE_S, _time_out, trip))
        try:
            if await trip.connection.is_stale():
                await self._send_again(trip)
                return
            asked_ns = self._clock.monotonic_ns()
            await self._handle_replies(trip, asked_ns, await self._exchange(trip))
        except (LinkError, ValueError) as error:
            reason = str(error) if isinstance(error, LinkError) else f"unexpected reply ({type(error).__name__})"
            await self._handle_failure(trip, reason)
        except asyncio.CancelledError:
            if not trip.timed_out:
                raise
            await self._handle_failure(trip, "timeout")
        finally:
            timer.cancel()
            _fail_waiters(trip.commands)
            trip.commands, trip.task = [], None  # break the reference cycle: the task holds the round trip

    async def _exchange(self, trip: _RoundTrip) -> list[Any]:
        """Return a reply for each command. If the server lacks a script, send the script's text."""
        connection, is_asking = trip.connection, False
        commands: list[Command] = []
        for pending in trip.commands:
            commands.append(pending.build(len(pending.waiters)))
            is_asking = is_asking or pending.asking
        replies = await (_call(connection, trip.commands, commands) if is_asking else connection.call(commands))
        if NoScriptError in map(type, replies):
            missing = [n for n, reply in enumerate(replies) if type(reply) is NoScriptError]
            with_text = [("EVAL", TEXTS[commands[n][1]], *commands[n][2:]) for n in missing]
            again = await _call(connection, [trip.commands[n] for n in missing], with_text)
            for n, reply in zip(missing, again, strict=True):
                replies[n] = reply
        return replies

    async def _handle_replies(self, trip: _RoundTrip, asked_ns: int, replies: list[Any]) -> None:
        answered, refused = 0, False
        for command, reply in zip(trip.commands, replies, strict=True):
            if isinstance(reply, ResponseError):
                refused = True
                await self._handle_error_reply(trip, command, reply)
                continue
            shared = RedisReply(asked_ns, reply, len(command.waiters))
            answered += shared.callers
            for future in command.waiters:
                if not future.done():
                    future.set_result(shared)
        if answered or not replies:
            self._breaker.succeeded()
            self._observer.answered(answered, self._clock.monotonic_ns() - asked_ns)
        elif any(command.waiters for command in trip.commands):
            self._breaker.failed(self._clock.monotonic_ns())
        if not refused:
            trip.commands = []

    async def _handle_error_reply(self, trip: _RoundTrip, command: PendingCommand, reply: ResponseError) -> None:
        """Redirect a command, or count it as failed. Close the connection if another server is responsible."""
        if isinstance(reply, AskError) and self.redirect is not None and command.redirects < MAX_REDIRECTS:
            moved = PendingCommand(command.build, command.waiters, command.redirects + 1, type(reply) is AskError)
            command.waiters = []
            self.redirect(self, moved, reply, trip.deadline)
            return
        self._observer.failed(refusal_of(reply), len(command.waiters))
        if isinstance(reply, ReadOnlyError | ClusterDownError | MovedError) or "READONLY" in str(reply):
            await self._discard(trip.connection)
            self.on_failure()

    async def _send_again(self, trip: _RoundTrip) -> None:
        """Reconnect after the server closed an idle connection. No command is repeated, since none was in flight."""
        await self._discard(trip.connection)
        commands, trip.commands = trip.commands, []
        for command in commands:
            self.enqueue(command, trip.deadline)

    async def _handle_failure(self, trip: _RoundTrip, reason: str) -> None:
        """Close the connection. If it broke under several round trips, the breaker counts one failure."""
        if trip.connection is self._connection:
            self._record_failure(reason, trip.commands)
        else:
            self._observer.failed(reason, _count_waiters(trip.commands))
        await self._discard(trip.connection)

    def _record_failure(self, reason: str, commands: list[PendingCommand]) -> None:
        self._observer.failed(reason, _count_waiters(commands))
        self._breaker.failed(self._clock.monotonic_ns())
        self.on_failure()

    async def _discard(self, connection: ServerConnection) -> None:
        if connection is self._connection:
            self._connection = None
        await connection.close()


async def _call(connection: ServerConnection, pending: list[PendingCommand], commands: list[Command]) -> list[Any]:
    """Return one reply for each command, without the replies to ASKING."""
    asking: Command = ("ASKING",)
    sent: list[Command] = []
    for one, command in zip(pending, commands, strict=True):
        sent += [asking, command] if one.asking else [command]
    replies = await connection.call(sent)
    return [reply for reply, command in zip(replies, sent, strict=True) if command is not asking]


async def _close_after(connection: ServerConnection, round_trips: list[asyncio.Task[None]]) -> None:
    if round_trips:
        await asyncio.wait(round_trips)
    await connection.close()


def _time_out(trip: _RoundTrip) -> None:
    if trip.commands and trip.task is not None:
        trip.timed_out = True
        trip.task.cancel()


def _count_waiters(commands: list[PendingCommand]) -> int:
    return sum(len(command.waiters) for command in commands)


def _fail_waiters(commands: list[PendingCommand]) -> None:
    for command in commands:
        for future in command.waiters:
            if not future.done():
                future.set_exception(LinkError("Redis did not answer"))
