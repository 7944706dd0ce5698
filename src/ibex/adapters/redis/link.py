"""A worker's way to Redis: one round trip for all that is asked in one turn of the event loop (spec 5, 6).

What Redis does not answer within the bound is not waited for, and the connection, whose late answers would be taken for
others', is given up. Few round trips are under way at a time, and only one while there is no connection; what is asked
meanwhile goes out together with the next, and its bound runs from when it was asked. After a few failures in a row
Redis is not asked for a second, and then by one round trip at a time.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from ibex.adapters.redis.keys import COUNT, EXCLUDES, LEASE_KEY
from ibex.adapters.redis.resp import Address, RedisError, RespConnection

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ibex.domain.clock import Clock

TIMEOUT_S: Final = 0.05
FAILURES_IN_A_ROW: Final = 3
MOST_UNDER_WAY: Final = 2
PAUSE_S: Final = 1.0
_NS: Final = 1_000_000_000
_SCRIPTS: Final = (COUNT.text, EXCLUDES.text)
Command: TypeAlias = "tuple[Any, ...]"


class RedisObserver(Protocol):
    """Port: hears how Redis does. Never raises, never blocks."""

    def answered(self, questions: int, duration_ns: int, *, leased: bool) -> None:
        """A round trip with so many requests in it came back, with a valid lease or without."""

    def failed(self, reason: str, questions: int = 1) -> None:
        """A round trip with so many requests in it did not; ``reason`` holds no key and no value."""

    def passed_over(self) -> None:
        """Redis was not asked, since it has just failed."""


@dataclass(slots=True)
class Answer:
    """What came of one question: one object for all its ``askers``, where the first leaves what it ``understood``.

    ``asked_ns`` is when Redis was asked, ``lease`` the valid one, if it names the very instance that answered.
    """

    asked_ns: int
    lease: str | None
    reply: Any
    askers: int
    understood: Any = None


@dataclass(slots=True)
class _Question:
    build: Callable[[int, str], Command]
    waiting: list[asyncio.Future[Answer]] = field(default_factory=list)


class RedisLink:
    """One connection, made when it is needed. Nothing it offers raises; None means that Redis did not answer."""

    def __init__(self, url: str, clock: Clock, observer: RedisObserver, *, timeout_s: float = TIMEOUT_S) -> None:
        """Take seconds for a round trip, and for connecting. Raises ``ValueError`` for what is no URL of Redis."""
        self._address = Address.parse(url)
        self._clock = clock
        self._observer = observer
        self._timeout_s = timeout_s
        self._connection: RespConnection | None = None
        self._next: dict[object, _Question] = {}
        self._next_ends: float | None = None
        self._under_way: set[asyncio.Task[None]] = set()
        self._failures = 0
        self._not_before_ns = 0

    async def open(self) -> None:
        """Connect, if Redis is there: the first request shall not pay for it."""
        if not self._under_way:
            self._start([], self._from_now())
        await asyncio.wait(self._under_way)

    async def close(self) -> None:
        """Disconnect. What is under way, or waits for it, is not answered."""
        self._turn_away()
        for task in list(self._under_way):
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        if self._connection is not None:
            self._connection.close()

    async def ping(self) -> None:
        """Return if Redis answers, by way of a connection of its own. Raises ``RedisError``."""
        connection = await self._connect((), self._from_now())
        connection.close()

    async def ask(self, key: object, build: Callable[[int, str], Command]) -> tuple[Answer | None, int]:
        """Ask together with all who ask in this turn; None if Redis did not answer in time or is not asked now.

        Who asks under an equal ``key`` asks the same; beside the answer stands one's own place among them, from 1,
        also where one of them leaves. ``build`` is given how many do, and the instance, and returns the
        one command for all of them.
        """
        if self._is_pausing():
            self._observer.passed_over()
            return None, 0
        loop = asyncio.get_running_loop()
        if not self._next:
            loop.call_soon(self._depart)
        question = self._next.get(key)
        if question is None:
            question = self._next[key] = _Question(build)
        answered: asyncio.Future[Answer] = loop.create_future()
        question.waiting.append(answered)
        place = len(question.waiting)
        try:
            return await answered, place
        except RedisError:
            return None, place
        finally:
            del answered, question  # which may have the error, whose traceback has this frame (ADR 0033)

    def _is_pausing(self) -> bool:
        if self._failures < FAILURES_IN_A_ROW:
            return False
        return self._clock.monotonic_ns() < self._not_before_ns or bool(self._under_way)

    def _depart(self) -> None:
        """Send what was asked on its way, or let it wait for a place; its bound runs."""
        if not self._next:
            return
        if self._is_pausing():
            self._turn_away()
            return
        ends = self._from_now() if self._next_ends is None else self._next_ends
        connected = self._connection is not None and self._connection.is_good
        if len(self._under_way) >= (MOST_UNDER_WAY if connected else 1):
            self._next_ends = ends
            return
        self._start(self._taken(), ends)

    def _start(self, questions: list[_Question], ends: float) -> None:
        task = asyncio.get_running_loop().create_task(self._travel(questions, ends))
        self._under_way.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if self._next:
            asyncio.get_running_loop().call_soon(self._depart)

    def _taken(self) -> list[_Question]:
        questions, self._next, self._next_ends = list(self._next.values()), {}, None
        return questions

    def _turn_away(self) -> None:
        """Answer what waits for a place: Redis is not asked."""
        questions = self._taken()
        for _ in range(_count(questions)):
            self._observer.passed_over()
        _disappoint(questions)

    def _from_now(self) -> float:
        return asyncio.get_running_loop().time() + self._timeout_s

    async def _travel(self, questions: list[_Question], ends: float) -> None:
        """Make one round trip and hand out what it brings, by the loop's time ``ends``. Nobody is left waiting."""
        connection = None
        try:
            connection = await self._connected(ends)
            asked_ns, lease, replies = await self._round_trip(connection, questions, ends)
            self._arrived(asked_ns, lease, questions, replies)
        except (RedisError, ValueError) as error:
            self._failed(connection, error, questions)
        finally:
            _disappoint(questions)

    def _arrived(self, asked_ns: int, lease: str | None, questions: list[_Question], replies: list[Any]) -> None:
        self._failures = 0
        if questions:
            took_ns = self._clock.monotonic_ns() - asked_ns
            self._observer.answered(_count(questions), took_ns, leased=lease is not None)
        for question, reply in zip(questions, replies, strict=True):
            answer = Answer(asked_ns, lease, reply, len(question.waiting))
            for future in question.waiting:
                if not future.done():
                    future.set_result(answer)

    async def _round_trip(
        self, connection: RespConnection, questions: list[_Question], ends: float
    ) -> tuple[int, str | None, list[Any]]:
        asked_ns = self._clock.monotonic_ns()
        commands = [question.build(len(question.waiting), connection.instance) for question in questions]
        left_s = ends - asyncio.get_running_loop().time()
        lease, *replies = await connection.call([("GET", LEASE_KEY), *commands], left_s)
        names_it = lease is not None and lease.startswith(b"%s " % connection.instance.encode())
        return asked_ns, lease.decode("utf-8", "replace") if names_it else None, replies

    async def _connected(self, ends: float) -> RespConnection:
        """Return the connection, made anew if need be; nobody else is making one then."""
        if self._connection is None or not self._connection.is_good:
            self._connection = await self._connect(_SCRIPTS, ends)
        return self._connection

    async def _connect(self, scripts: Sequence[str], ends: float) -> RespConnection:
        try:
            async with asyncio.timeout_at(ends):
                return await RespConnection.open(self._address, scripts)
        except TimeoutError:
            raise RedisError("timeout in connecting") from None

    def _failed(self, connection: RespConnection | None, error: Exception, questions: list[_Question]) -> None:
        """Give the connection up. That it broke under several round trips is one failure."""
        reason = str(error) if isinstance(error, RedisError) else f"not understood ({type(error).__name__})"
        self._observer.failed(reason, _count(questions))
        if connection is not None:
            connection.close()
            if connection is not self._connection:
                return
        self._connection = None
        self._failures += 1
        self._not_before_ns = self._clock.monotonic_ns() + int(PAUSE_S * _NS)


def _count(questions: list[_Question]) -> int:
    return sum(len(question.waiting) for question in questions)


def _disappoint(questions: list[_Question]) -> None:
    for question in questions:
        for future in question.waiting:
            if not future.done():
                future.set_exception(RedisError("Redis did not answer"))
