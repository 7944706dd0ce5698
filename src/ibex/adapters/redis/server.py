"""The shared way to one Redis server: one round trip for everything that is asked in one turn of the event loop.

A question that Redis does not answer within the time limit is given up, and so is the connection, whose late replies
would be taken for others'. Few round trips are under way at a time; what is asked meanwhile goes out with the next, and
its time limit runs from when it was asked. Connecting goes on in the background, with a longer limit of its own: the
questions at its beginning wait for it within their own limit, and later ones are turned away at once until there is a
connection. A circuit breaker stops calls for a moment after a few failures in a row.
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
MOST_UNDER_WAY: Final = 2
MOST_REDIRECTS: Final = 3
_LATE_S: Final = 0.001
"""A busy loop sees its timers before what has arrived meanwhile; after so long it has seen that too."""


class RedisObserver(Protocol):
    """Port: hears how Redis does. Never raises, never blocks."""

    def answered(self, questions: int, duration_ns: int) -> None:
        """A round trip with so many requests in it came back."""

    def failed(self, reason: str, questions: int = 1) -> None:
        """A round trip with so many requests in it did not; ``reason`` holds no key and no value."""

    def passed_over(self) -> None:
        """Redis was not asked, since it has just failed or is still being connected to."""


@dataclass(slots=True)
class RedisReply:
    """What came of one question: one object for all its ``askers``, where the first leaves what it ``understood``.

    ``asked_ns`` is when Redis was asked.
    """

    asked_ns: int
    reply: Any
    askers: int
    understood: Any = None


@dataclass(slots=True)
class Question:
    """One command shared by identical questions. ``build`` receives the number of questions."""

    build: Callable[[int], Command]
    waiting: list[asyncio.Future[RedisReply]] = field(default_factory=list)
    redirects: int = 0
    asking: bool = False
    """Whether a Cluster's node has to be told that it is asked for a slot that is moving to it."""


@dataclass(slots=True)
class _Trip:
    questions: list[Question]
    connection: ServerConnection
    ends: float
    task: asyncio.Task[None] | None = None
    is_late: bool = False


class ServerLink:
    """The link to one server. Nothing it offers raises; None means that Redis did not answer."""

    def __init__(
        self,
        prepare: Callable[[], Awaitable[AbstractConnection]],
        clock: Clock,
        observer: RedisObserver,
        *,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """Take what finds the server and returns a connection that is not connected, and seconds for a round trip."""
        self._prepare = prepare
        self._clock = clock
        self._observer = observer
        self._timeout_s = timeout_s
        self._breaker = CircuitBreaker()
        self._connection: ServerConnection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._patience_ends = 0.0
        self._next: dict[object, Question] = {}
        self._next_ends: float | None = None
        self._under_way: set[asyncio.Task[None]] = set()
        self._leaving: set[asyncio.Task[None]] = set()
        self._is_closed = False
        self.on_failure: Callable[[], None] = lambda: None
        """Called for each failure, and when the server says that it is not, or no longer, the one to ask."""
        self.redirect: Callable[[ServerLink, Question, AskError, float], None] | None = None
        """Takes the questions that this node of a Cluster sends to another, and until when they wait."""

    async def open(self) -> None:
        """Connect, if the server is there: the first request shall not pay for it."""
        if self._connection is None or not self._connection.is_good:
            await asyncio.wait([self._start_connecting()])

    async def close(self) -> None:
        """Disconnect for good. What is under way, or waits for it, is not answered; nor is what is asked later."""
        self._is_closed = True
        self._turn_away()
        tasks = [*self._under_way, *([self._connecting] if self._connecting is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self._leaving, return_exceptions=True)
        if self._connection is not None:
            await self._connection.close()

    async def fresh_connection(self) -> ServerConnection:
        """Return a new connection to a server that answers. Raises ``LinkError``."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                connection = ServerConnection(await self._prepare())
                await connection.open()
                await connection.call([("PING",)])  # a frozen server accepts connections; a refusal is an answer too
        except TimeoutError:
            raise LinkError("timeout in connecting") from None
        return connection

    async def ask(self, key: object, build: Callable[[int], Command]) -> tuple[RedisReply | None, int]:
        """Send the question with all others of this event loop iteration; see ``RedisLink.ask``."""
        loop = asyncio.get_running_loop()
        if (self._connecting is not None or not self._breaker.is_closed) and not self._may_ask(loop):
            self._observer.passed_over()
            return None, 0
        if not self._next:
            loop.call_soon(self._depart)
        question = self._next.get(key)
        if question is None:
            question = self._next[key] = Question(build)
        answered: asyncio.Future[RedisReply] = loop.create_future()
        question.waiting.append(answered)
        place = len(question.waiting)
        try:
            return await answered, place
        except LinkError:
            return None, place
        finally:
            del answered, question  # which may have the error, whose traceback has this frame (ADR 0033)

    def accept(self, question: Question, ends: float) -> None:
        """Take a question that another node redirected, or that goes again; it waits until ``ends``, as before."""
        if not self._next:
            asyncio.get_running_loop().call_soon(self._depart)
        self._next[object()] = question
        self._next_ends = ends if self._next_ends is None else min(ends, self._next_ends)

    def leave(self) -> None:
        """Reconnect for all later questions, because another server is now responsible."""
        connection, self._connection = self._connection, None
        if connection is not None:
            task = asyncio.get_running_loop().create_task(_close_after(connection, list(self._under_way)))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    def _may_ask(self, loop: asyncio.AbstractEventLoop) -> bool:
        if self._connecting is not None and loop.time() >= self._patience_ends:
            return False
        if self._breaker.is_closed:
            return True
        calls = len(self._under_way) + (self._connecting is not None)
        return self._breaker.allows(self._clock.monotonic_ns(), calls)

    def _depart(self) -> None:
        """Send what was asked on its way, or let it wait for a connection or a place; its time limit runs."""
        if not self._next:
            return
        if self._is_closed:
            self._turn_away()
            return
        loop = asyncio.get_running_loop()
        ends = self._next_ends = loop.time() + self._timeout_s if self._next_ends is None else self._next_ends
        if not self._breaker.is_closed and not self._breaker.allows(self._clock.monotonic_ns(), len(self._under_way)):
            self._turn_away()
        elif self._connection is None or not self._connection.is_good:
            self._start_connecting()
            if loop.time() >= self._patience_ends:
                self._turn_away()
        elif len(self._under_way) < MOST_UNDER_WAY:
            trip = _Trip(self._taken(), self._connection, ends)
            task = trip.task = loop.create_task(self._travel(trip))
            self._under_way.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if self._next:
            asyncio.get_running_loop().call_soon(self._depart)

    def _taken(self) -> list[Question]:
        questions, self._next, self._next_ends = list(self._next.values()), {}, None
        return questions

    def _turn_away(self) -> None:
        """Answer what waits: Redis is not asked."""
        questions = self._taken()
        for _ in range(_count(questions)):
            self._observer.passed_over()
        _disappoint(questions)

    def _start_connecting(self) -> asyncio.Task[None]:
        if self._connecting is None:
            loop = asyncio.get_running_loop()
            self._patience_ends = loop.time() + self._timeout_s
            loop.call_at(self._patience_ends, self._depart)
            self._connecting = loop.create_task(self._connect())
        return self._connecting

    async def _connect(self) -> None:
        try:
            self._connection = await self.fresh_connection()
        except LinkError as error:
            questions = self._taken()
            self._failed(str(error), questions)
            _disappoint(questions)
        finally:
            self._connecting = None
            if self._next:
                asyncio.get_running_loop().call_soon(self._depart)

    async def _travel(self, trip: _Trip) -> None:
        """Make one round trip and hand out what it brings. Nobody is left waiting."""
        loop = asyncio.get_running_loop()
        bound = loop.call_at(trip.ends, lambda: loop.call_later(_LATE_S, _give_up, trip))
        try:
            if await trip.connection.is_stale():
                await self._go_again(trip)
                return
            asked_ns = self._clock.monotonic_ns()
            await self._arrived(trip, asked_ns, await self._round_trip(trip))
        except (LinkError, ValueError) as error:
            reason = str(error) if isinstance(error, LinkError) else f"not understood ({type(error).__name__})"
            await self._gave_up(trip, reason)
        except asyncio.CancelledError:
            if not trip.is_late:
                raise
            await self._gave_up(trip, "timeout")
        finally:
            bound.cancel()
            _disappoint(trip.questions)
            trip.questions, trip.task = [], None  # which has the trip

    async def _round_trip(self, trip: _Trip) -> list[Any]:
        """Return a reply for each question; a script that the server lacks is sent to it."""
        connection, is_asking = trip.connection, False
        commands: list[Command] = []
        for question in trip.questions:
            commands.append(question.build(len(question.waiting)))
            is_asking = is_asking or question.asking
        replies = await (_call(connection, trip.questions, commands) if is_asking else connection.call(commands))
        if NoScriptError in map(type, replies):
            lacking = [n for n, reply in enumerate(replies) if type(reply) is NoScriptError]
            with_text = [("EVAL", TEXTS[commands[n][1]], *commands[n][2:]) for n in lacking]
            again = await _call(connection, [trip.questions[n] for n in lacking], with_text)
            for n, reply in zip(lacking, again, strict=True):
                replies[n] = reply
        return replies

    async def _arrived(self, trip: _Trip, asked_ns: int, replies: list[Any]) -> None:
        answered, refused = 0, False
        for question, reply in zip(trip.questions, replies, strict=True):
            if isinstance(reply, ResponseError):
                refused = True
                await self._refused(trip, question, reply)
                continue
            answer = RedisReply(asked_ns, reply, len(question.waiting))
            answered += answer.askers
            for future in question.waiting:
                if not future.done():
                    future.set_result(answer)
        if answered or not replies:
            self._breaker.succeeded()
            self._observer.answered(answered, self._clock.monotonic_ns() - asked_ns)
        elif any(question.waiting for question in trip.questions):
            self._breaker.failed(self._clock.monotonic_ns())
        if not refused:
            trip.questions = []

    async def _refused(self, trip: _Trip, question: Question, reply: ResponseError) -> None:
        """Redirect a question, or count it as failed; give the connection up if another server is the one to ask."""
        if isinstance(reply, AskError) and self.redirect is not None and question.redirects < MOST_REDIRECTS:
            moved = Question(question.build, question.waiting, question.redirects + 1, type(reply) is AskError)
            question.waiting = []
            self.redirect(self, moved, reply, trip.ends)
            return
        self._observer.failed(refusal_of(reply), len(question.waiting))
        if isinstance(reply, ReadOnlyError | ClusterDownError | MovedError) or "READONLY" in str(reply):
            await self._drop(trip.connection)
            self.on_failure()

    async def _go_again(self, trip: _Trip) -> None:
        """Reconnect after the server closed an idle connection. No command is repeated, since none was in flight."""
        await self._drop(trip.connection)
        questions, trip.questions = trip.questions, []
        for question in questions:
            self.accept(question, trip.ends)

    async def _gave_up(self, trip: _Trip, reason: str) -> None:
        """Give the connection up. That it broke under several round trips is one failure."""
        if trip.connection is self._connection:
            self._failed(reason, trip.questions)
        else:
            self._observer.failed(reason, _count(trip.questions))
        await self._drop(trip.connection)

    def _failed(self, reason: str, questions: list[Question]) -> None:
        self._observer.failed(reason, _count(questions))
        self._breaker.failed(self._clock.monotonic_ns())
        self.on_failure()

    async def _drop(self, connection: ServerConnection) -> None:
        if connection is self._connection:
            self._connection = None
        await connection.close()


async def _call(connection: ServerConnection, questions: list[Question], commands: list[Command]) -> list[Any]:
    """Return one reply for each question."""
    asking: Command = ("ASKING",)
    sent: list[Command] = []
    for question, command in zip(questions, commands, strict=True):
        sent += [asking, command] if question.asking else [command]
    replies = await connection.call(sent)
    return [reply for reply, command in zip(replies, sent, strict=True) if command is not asking]


async def _close_after(connection: ServerConnection, round_trips: list[asyncio.Task[None]]) -> None:
    if round_trips:
        await asyncio.wait(round_trips)
    await connection.close()


def _give_up(trip: _Trip) -> None:
    if trip.questions and trip.task is not None:
        trip.is_late = True
        trip.task.cancel()


def _count(questions: list[Question]) -> int:
    return sum(len(question.waiting) for question in questions)


def _disappoint(questions: list[Question]) -> None:
    for question in questions:
        for future in question.waiting:
            if not future.done():
                future.set_exception(LinkError("Redis did not answer"))
