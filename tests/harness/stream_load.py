"""Many concurrent streams, each event timed from its writing to its receipt.

An event contains the monotonic time of its writing, as in ``harness.fast_openai``; all processes of a machine share
this clock.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import urlsplit

import uvloop

if TYPE_CHECKING:
    from collections.abc import Callable

_WRITTEN_AT: Final = re.compile(rb'"(?:content|delta)": ?"(\d+) "')
_AT_ONCE: Final = 10


@dataclass(slots=True)
class Delays:
    """Nanoseconds from an event's writing to its receipt: of first events, and of all others.

    ``cpu_s`` is the processor time of the generator itself, in seconds.
    """

    first: list[int] = field(default_factory=list)
    later: list[int] = field(default_factory=list)
    streams: int = 0
    whole: int = 0
    cpu_s: float = 0.0


class _Stream(asyncio.Protocol):
    """One request for a stream, which times the events as they arrive."""

    def __init__(self, request: bytes, delays: Delays, done: Callable[[], None]) -> None:
        self._request = request
        self._delays = delays
        self._done = done
        self._over = False
        self._first = True
        self._tail = b""
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)
        self._delays.streams += 1

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        for found in _WRITTEN_AT.finditer(data):
            (self._delays.first if self._first else self._delays.later).append(now - int(found[1]))
            self._first = False
        self._tail = (self._tail + data)[-40:]
        if b"[DONE]" in self._tail:
            self._delays.whole += not self._over
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._end()  # an interrupted stream is not complete

    def leave(self) -> None:
        """Close the connection, even if more events follow."""
        self._over = True
        self._transport.abort()

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self._transport.abort()
            self._done()


def run_streams(base_url: str, request: bytes, count: int, *, most_s: float = 60.0) -> Delays:
    """Request streams concurrently and return the delays of their events. Blocks.

    After ``most_s`` seconds it leaves the streams that still run; they count as incomplete.
    """
    return uvloop.run(_run_streams(base_url, request, count, most_s))


async def _run_streams(base_url: str, request: bytes, count: int, most_s: float) -> Delays:
    loop = asyncio.get_running_loop()
    parts = urlsplit(base_url)
    delays = Delays()
    finished = asyncio.Event()
    left = count
    streams: list[_Stream] = []
    cpu_s = time.process_time()

    def done() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            finished.set()

    try:
        async with asyncio.timeout(most_s):
            for number in range(count):
                create = loop.create_connection
                address = parts.hostname or "", parts.port or 0
                streams.append((await create(lambda: _Stream(request, delays, done), *address))[1])
                if number % _AT_ONCE == _AT_ONCE - 1:  # the streams begin within about a second, as conversations do
                    await asyncio.sleep(0.02)
            await finished.wait()
    except TimeoutError:
        for stream in streams:
            stream.leave()
    delays.cpu_s = time.process_time() - cpu_s
    return delays
