"""The victim: an organization that sends requests at a fixed rate. ``python -m benchmarks.attacks.victim``.

The first line on stdin is a ``Plan`` as JSON. Each further line is a number of seconds: the victim sends requests for
so long, and answers with one line of JSON, a list of ``Sample``. Connections are kept between the lines.

A request is timed from the moment at which it was due, whether or not others are answered. A request without an answer
within ``PATIENCE_S`` is a failure.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
import time
from collections import deque
from dataclasses import dataclass
from itertools import cycle
from typing import Final, NamedTuple

import uvloop
from benchmarks.attacks.wire import CHAT, Connection, bearer, chat_body, request

PATIENCE_S: Final = 10.0
BUFFERED, STREAM, CONNECT, MISS = "buffered", "stream", "connect", "miss"
MIX: Final = (BUFFERED, STREAM, BUFFERED, CONNECT, MISS)
"""What the victim sends in turn: on a kept connection a buffered request and a stream, a request on a new connection,
and one with a token that no worker has seen."""
WITHOUT_STREAMS: Final = (BUFFERED, BUFFERED, CONNECT, MISS)


class Sample(NamedTuple):
    """One request: its kind, its outcome (``ok``, a status, or a failure's name), and milliseconds."""

    kind: str
    outcome: str
    ms: float


@dataclass(frozen=True, slots=True)
class Plan:
    """Where the victim sends requests, how many a second, of which kinds, and with which tokens.

    Each of ``unused`` is a live token; it is used once.
    """

    port: int
    token: str
    unused: tuple[str, ...]
    rate: float
    mix: tuple[str, ...] = MIX
    host: str = "127.0.0.1"

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a plan that was written with ``to_json``."""
        told = json.loads(text)
        return cls(**{**told, "unused": tuple(told["unused"]), "mix": tuple(told["mix"])})

    def to_json(self) -> str:
        """Write the plan."""
        return json.dumps(dataclasses.asdict(self))


class Victim:
    """Sends requests over connections that are kept and reused."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._kinds = cycle(plan.mix)
        self._unused = iter(plan.unused)
        self._idle: deque[Connection] = deque()
        authority = f"{plan.host}:{plan.port}"
        self._authority = authority
        own = bearer(plan.token)
        self._buffered = request(authority, CHAT, own, chat_body("gpt-instant"))
        self._stream = request(authority, CHAT, own, chat_body("gpt-stream", stream=True))

    async def run(self, seconds: float) -> list[Sample]:
        """Send requests for some seconds, and return their samples."""
        loop, begin = asyncio.get_running_loop(), time.monotonic() + 0.02
        running = []
        for number in range(round(seconds * self._plan.rate)):
            due = begin + number / self._plan.rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            running.append(loop.create_task(self._one(next(self._kinds), due)))
        return list(await asyncio.gather(*running))

    async def _one(self, kind: str, due: float) -> Sample:
        try:
            async with asyncio.timeout(PATIENCE_S):
                outcome = await self._ask(kind)
        except TimeoutError:
            outcome = "no answer"
        except ConnectionRefusedError:
            outcome = "refused"
        except OSError as error:
            outcome = "closed" if isinstance(error, ConnectionAbortedError) else type(error).__name__
        return Sample(kind, outcome, (time.monotonic() - due) * 1000)

    async def _ask(self, kind: str) -> str:
        sent = {BUFFERED: self._buffered, STREAM: self._stream, CONNECT: self._buffered}.get(kind)
        if sent is None:
            sent = request(self._authority, CHAT, bearer(next(self._unused)), chat_body("gpt-instant"))
        connection = None if kind == CONNECT else self._kept()
        connection = connection or await Connection.open(self._plan.host, self._plan.port)
        is_kept = False
        try:
            answer = await connection.ask(sent)
            is_kept = kind != CONNECT
        finally:
            if is_kept:
                self._idle.append(connection)
            else:
                connection.abort()
        return "ok" if answer.status == 200 else str(answer.status)  # noqa: PLR2004 - the status of success

    def _kept(self) -> Connection | None:
        while self._idle:
            connection = self._idle.popleft()
            if not connection.closed.is_set():
                return connection
        return None


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    victim = Victim(Plan.from_json(await loop.run_in_executor(None, sys.stdin.readline)))
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        samples = await victim.run(float(line))
        sys.stdout.write(json.dumps(samples) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(_serve())
