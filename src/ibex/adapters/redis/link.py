"""A worker's way to Redis: one round trip for all that is asked in one turn of the event loop (spec 5, 6).

What Redis does not answer within the bound is not waited for, and the connection, whose late answers would be taken for
others', is given up. After a few failures in a row Redis is not asked for a second, and then by one request at a time.
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
PAUSE_S: Final = 1.0
_NS: Final = 1_000_000_000
_SCRIPTS: Final = (COUNT.text, EXCLUDES.text)
Command: TypeAlias = "tuple[Any, ...]"


class RedisObserver(Protocol):
    """Port: hears how Redis does. Never raises, never blocks."""

    def answered(self, questions: int, duration_ns: int) -> None:
        """A round trip with so many requests in it came back."""

    def failed(self, reason: str) -> None:
        """A round trip did not; ``reason`` holds no key and no value."""

    def passed_over(self) -> None:
        """Redis was not asked, since it has just failed."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one question.

    ``asked_ns`` is when Redis was asked, ``lease`` the valid one, if it names the very instance that answered. The
    reply is for all ``askers`` of the same question together; each has a ``place`` of its own among them, from 1.
    """

    asked_ns: int
    lease: str | None
    reply: Any
    askers: int
    place: int


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
        self._connecting = asyncio.Lock()
        self._under_way: set[asyncio.Task[None]] = set()
        self._failures = 0
        self._not_before_ns = 0

    async def open(self) -> None:
        """Connect, if Redis is there: the first request shall not pay for it."""
        try:
            await self._connected()
        except RedisError as error:
            self._observer.failed(str(error))

    async def close(self) -> None:
        """Disconnect. What is under way is not answered."""
        for task in list(self._under_way):
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        if self._connection is not None:
            self._connection.close()

    async def ping(self) -> None:
        """Return if Redis answers, by way of a connection of its own. Raises ``RedisError``."""
        connection = await self._connect(())
        connection.close()

    async def ask(self, key: object, build: Callable[[int, str], Command]) -> Answer | None:
        """Ask together with all who ask in this turn; None if Redis did not answer in time or is not asked now.

        Who asks under an equal ``key`` asks the same. ``build`` is given how many do, and the instance, and returns the
        one command for all of them.
        """
        if self._failures >= FAILURES_IN_A_ROW and self._is_pausing():
            self._observer.passed_over()
            return None
        loop = asyncio.get_running_loop()
        if not self._next:
            loop.call_soon(self._depart)
        question = self._next.setdefault(key, _Question(build))
        answered: asyncio.Future[Answer] = loop.create_future()
        question.waiting.append(answered)
        try:
            return await answered
        except RedisError:
            return None

    def _is_pausing(self) -> bool:
        return self._clock.monotonic_ns() < self._not_before_ns or bool(self._under_way)

    def _depart(self) -> None:
        questions, self._next = list(self._next.values()), {}
        task = asyncio.get_running_loop().create_task(self._travel(questions))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _travel(self, questions: list[_Question]) -> None:
        """Make one round trip and hand out what it brings. Raises nothing but a cancellation."""
        try:
            asked_ns, lease, replies = await self._round_trip(questions)
        except RedisError as error:
            self._failed(str(error))
            _disappoint(questions)
            return
        except asyncio.CancelledError:
            _disappoint(questions)
            raise
        self._failures = 0
        answered_ns = self._clock.monotonic_ns()
        self._observer.answered(sum(len(question.waiting) for question in questions), answered_ns - asked_ns)
        for question, reply in zip(questions, replies, strict=True):
            askers = len(question.waiting)
            for place, future in enumerate(question.waiting, 1):
                if not future.done():
                    future.set_result(Answer(asked_ns, lease, reply, askers, place))

    async def _round_trip(self, questions: list[_Question]) -> tuple[int, str | None, list[Any]]:
        connection = await self._connected()
        asked_ns = self._clock.monotonic_ns()
        commands = [question.build(len(question.waiting), connection.instance) for question in questions]
        lease, *replies = await connection.call([("GET", LEASE_KEY), *commands], self._timeout_s)
        names_it = lease is not None and lease.startswith(b"%s " % connection.instance.encode())
        return asked_ns, lease.decode() if names_it else None, replies

    async def _connected(self) -> RespConnection:
        if self._connection is not None and self._connection.is_good:
            return self._connection
        async with self._connecting:
            if self._connection is None or not self._connection.is_good:
                self._connection = await self._connect(_SCRIPTS)
            return self._connection

    async def _connect(self, scripts: Sequence[str]) -> RespConnection:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await RespConnection.open(self._address, scripts)
        except TimeoutError:
            raise RedisError("timeout in connecting") from None

    def _failed(self, reason: str) -> None:
        self._failures += 1
        self._not_before_ns = self._clock.monotonic_ns() + int(PAUSE_S * _NS)
        if self._connection is not None:
            self._connection.close()
        self._observer.failed(reason)


def _disappoint(questions: list[_Question]) -> None:
    for question in questions:
        for future in question.waiting:
            if not future.done():
                future.set_exception(RedisError("Redis did not answer"))
