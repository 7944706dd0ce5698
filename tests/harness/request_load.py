"""Load without coordinated omission: requests at a fixed rate, timed from when they were due; or in a closed loop.

Raw HTTP/1.1 on keep-alive connections, one request at a time on each. At a fixed rate (an open loop), requests do not
wait for other responses: a stall of the server counts for every request that was due meanwhile. The kernel's timer
(timerfd) sets the pace, because an event loop's timers have a resolution of a millisecond.

If a provider reports the time that it spent on a request (``took N ns`` in its response, as ``harness.fast_openai``
does), that time is used for this request.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import re
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple, cast
from urllib.parse import urlsplit

import uvloop

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NS: Final = 1_000_000_000
OK: Final = 200
LATE_ANSWERS_S: Final = 30.0
_TOOK: Final = re.compile(rb"took (\d+) ns")
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_TIMING: Final = re.compile(rb"\r\nserver-timing: *([^\r]+)", re.IGNORECASE)
_MONOTONIC, _ABSOLUTE = 1, 1


class Answer(NamedTuple):
    """One response: times in monotonic nanoseconds, its status, the provider's time, and Server-Timing."""

    due_ns: int
    sent_ns: int
    answered_ns: int
    status: int
    provider_ns: int
    timing: str

    @property
    def overhead_ns(self) -> int:
        """The time from the moment at which the request was due, without the provider's part."""
        return self.answered_ns - self.due_ns - self.provider_ns


@dataclass(slots=True)
class Load:
    """The results: the responses, and how many requests failed (no response, or a status other than 200)."""

    answers: list[Answer] = field(default_factory=list)
    failed: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    """Processor time of the generator itself, in seconds."""


def chat_request(
    base_url: str, model: str, headers: Mapping[str, str], *, content: str = "hi", stream: bool = False
) -> bytes:
    """Return the bytes of a chat completion request to a base URL that ends with /v1 or the like.

    Its JSON has no spaces, as in OpenAI's SDKs.
    """
    asked = {"model": model, "stream": stream, "messages": [{"role": "user", "content": content}], "temperature": 0.2}
    return _post(base_url, "chat/completions", headers, asked)


def responses_request(base_url: str, model: str, headers: Mapping[str, str], *, stream: bool = False) -> bytes:
    """Return the bytes of a Responses API request; see ``chat_request``."""
    asked = {"model": model, "stream": stream, "input": "hi", "instructions": "Answer in English.", "temperature": 0.2}
    return _post(base_url, "responses", headers, asked)


def _post(base_url: str, path: str, headers: Mapping[str, str], asked: Mapping[str, object]) -> bytes:
    body = json.dumps(asked, separators=(",", ":")).encode()
    parts = urlsplit(base_url)
    lines = [f"POST {parts.path or '/v1'}/{path} HTTP/1.1", f"host: {parts.netloc}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += ["content-type: application/json", f"content-length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def at_a_rate(
    base_url: str, requests: Sequence[bytes], *, a_second: float, seconds: float, warm_up_s: float = 0.5
) -> Load:
    """Send requests at a rate, in turn, and return the results of those after the warm-up. Blocks."""
    return uvloop.run(_OpenLoop(base_url, requests, a_second).run(seconds, warm_up_s))


def as_fast_as_answered(
    base_url: str, requests: Sequence[bytes], *, connections: int, seconds: float = 3600, most: int | None = None
) -> Load:
    """Send the next request on a connection after each response, for some time or number of requests. Blocks."""
    return uvloop.run(_ClosedLoop(base_url, requests, connections).run(seconds, most))


class _Connection(asyncio.Protocol):
    """Sends a request and notifies its loop of the response or the failure."""

    def __init__(self, loop: _Loop) -> None:
        self._loop = loop
        self._received: list[bytes] = []
        self._missing = 0
        self._due_ns = self._sent_ns = 0
        self.busy = False
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def send(self, request: bytes, due_ns: int) -> None:
        self.busy, self._due_ns, self._sent_ns = True, due_ns, time.monotonic_ns()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        self._received.append(data)
        if self._missing > len(data):
            self._missing -= len(data)
            return
        answer = b"".join(self._received)
        end = answer.find(b"\r\n\r\n")
        if end < 0:
            return
        length = _LENGTH.search(answer, 0, end)
        if length is not None:
            self._missing = end + 4 + int(length[1]) - len(answer)
            if self._missing > 0:
                return
        elif not answer.endswith(b"0\r\n\r\n", end + 4):  # chunked; the last header may end with a 0 too
            return
        self._received, self._missing, self.busy = [], 0, False
        took, timing = _TOOK.search(answer, end), _TIMING.search(answer, 0, end)
        self._loop.answered(
            self,
            Answer(
                self._due_ns,
                self._sent_ns,
                now,
                int(answer[9:12]),
                int(took[1]) if took else 0,
                timing[1].decode() if timing else "",
            ),
        )

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._loop.lost(self)

    def close(self) -> None:
        self._transport.abort()


class _Loop:
    """The common part of both kinds of load: connections, and the results so far."""

    def __init__(self, base_url: str, requests: Sequence[bytes]) -> None:
        parts = urlsplit(base_url)
        self._address = parts.hostname or "", parts.port or 0
        self._requests = requests
        self._sent = 0
        self._load = Load()
        self._open: list[_Connection] = []
        self._closing = False
        self._connecting: set[asyncio.Task[None]] = set()
        self._done = asyncio.Event()

    async def _connect(self) -> _Connection:
        create = asyncio.get_running_loop().create_connection
        connection = (await create(lambda: _Connection(self), *self._address))[1]
        self._open.append(connection)
        return connection

    def _next(self) -> bytes:
        request = self._requests[self._sent % len(self._requests)]
        self._sent += 1
        return request

    def answered(self, connection: _Connection, answer: Answer) -> None:
        raise NotImplementedError

    def lost(self, connection: _Connection) -> None:
        raise NotImplementedError

    def _keep(self, answer: Answer) -> None:
        self._load.answers.append(answer)
        self._load.failed += answer.status != OK

    def _end(self, began_ns: int, cpu_s: float) -> Load:
        self._closing = True
        for connection in self._open:
            connection.close()
        self._load.seconds = (time.monotonic_ns() - began_ns) / NS
        self._load.cpu_s = time.process_time() - cpu_s
        return self._load


class _ClosedLoop(_Loop):
    def __init__(self, base_url: str, requests: Sequence[bytes], connections: int) -> None:
        super().__init__(base_url, requests)
        self._connections = connections
        self._most: int | None = None

    async def run(self, seconds: float, most: int | None) -> Load:
        self._most = most
        connections = [await self._connect() for _ in range(self._connections)]
        cpu_s, began = time.process_time(), time.monotonic_ns()
        for connection in connections:
            self._go_on(connection)
        try:
            async with asyncio.timeout(seconds):
                await self._done.wait()
        except TimeoutError:
            pass
        return self._end(began, cpu_s)

    def answered(self, connection: _Connection, answer: Answer) -> None:
        self._keep(answer)
        self._go_on(connection)

    def lost(self, connection: _Connection) -> None:
        if self._closing:
            return
        self._load.failed += connection.busy
        self._open.remove(connection)
        task = asyncio.ensure_future(self._renew())
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _renew(self) -> None:
        try:
            self._go_on(await self._connect())
        except OSError:
            self._load.failed += 1

    def _go_on(self, connection: _Connection) -> None:
        if self._most is None or self._sent < self._most:
            connection.send(self._next(), time.monotonic_ns())
        elif not any(one.busy for one in self._open):
            self._done.set()


class _OpenLoop(_Loop):
    def __init__(self, base_url: str, requests: Sequence[bytes], a_second: float) -> None:
        super().__init__(base_url, requests)
        self._every_ns = round(NS / a_second)
        self._idle: deque[_Connection] = deque()
        self._due: deque[tuple[bytes, int]] = deque()
        self._first_ns = self._measured_from_ns = 0
        self._all = self._over = 0

    async def run(self, seconds: float, warm_up_s: float) -> Load:
        every_s = self._every_ns / NS
        for _ in range(min(200, round(0.5 / every_s) + 1)):
            self._idle.append(await self._connect())
        self._all = round((warm_up_s + seconds) / every_s)
        cpu_s = time.process_time()
        self._first_ns = time.monotonic_ns() + NS // 50
        self._measured_from_ns = self._first_ns + round(warm_up_s * NS)
        timer = _periodic_timer(self._first_ns, self._every_ns)
        loop = asyncio.get_running_loop()
        loop.add_reader(timer, self._tick, timer)
        try:
            async with asyncio.timeout(warm_up_s + seconds + LATE_ANSWERS_S):
                await self._done.wait()
        except TimeoutError:
            self._load.failed += self._all - self._over
        finally:
            loop.remove_reader(timer)
            os.close(timer)
        return self._end(self._measured_from_ns, cpu_s)

    def _tick(self, timer: int) -> None:
        for _ in range(int.from_bytes(os.read(timer, 8), "little")):
            if self._sent == self._all:
                break
            due_ns = self._first_ns + self._sent * self._every_ns
            if self._idle:
                self._idle.popleft().send(self._next(), due_ns)
            else:
                self._due.append((self._next(), due_ns))
                task = asyncio.ensure_future(self._one_more())
                self._connecting.add(task)
                task.add_done_callback(self._connecting.discard)

    async def _one_more(self) -> None:
        try:
            connection = await self._connect()
        except OSError:
            self._due.popleft()
            self._count_failed()
        else:
            self._free(connection)

    def _free(self, connection: _Connection) -> None:
        if self._due:
            connection.send(*self._due.popleft())
        else:
            self._idle.append(connection)

    def answered(self, connection: _Connection, answer: Answer) -> None:
        if answer.due_ns >= self._measured_from_ns:
            self._keep(answer)
        self._free(connection)
        self._count()

    def lost(self, connection: _Connection) -> None:
        if self._closing:
            return
        self._open.remove(connection)
        if connection.busy:
            self._count_failed()
        else:
            self._idle = deque(one for one in self._idle if one is not connection)

    def _count_failed(self) -> None:
        self._load.failed += 1
        self._count()

    def _count(self) -> None:
        self._over += 1
        if self._over == self._all:
            self._done.set()


def _periodic_timer(first_ns: int, every_ns: int) -> int:
    """Return a descriptor that becomes readable at a moment of the monotonic clock, and periodically afterwards."""
    libc = ctypes.CDLL(None, use_errno=True)
    timer = libc.timerfd_create(_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
    if timer < 0:
        raise OSError(ctypes.get_errno(), "timerfd_create")
    when = (ctypes.c_long * 4)(*divmod(every_ns, NS), *divmod(first_ns, NS))
    if libc.timerfd_settime(timer, _ABSOLUTE, when, None) != 0:
        raise OSError(ctypes.get_errno(), "timerfd_settime")
    return int(timer)
