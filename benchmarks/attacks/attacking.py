"""The parts of attacks: held connections, and requests at a fixed rate. All of them are bounded."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from benchmarks.attacks.wire import Connection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from benchmarks.attacks.tally import Tally

    Script = Callable[[Connection], Awaitable[None]]

LOOPBACK: Final = "127.0.0.1"
OPENS_A_SECOND: Final = 1_000.0
REOPENS_A_SECOND: Final = 200.0
FLOOD_A_SECOND: Final = 1_000.0
FLOOD_CONNECTIONS: Final = 64
_NO_CONNECTION_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Target:
    """The attacker's knowledge: ports, a tenant's own tokens, another organization, and the id of a token."""

    proxy: int
    ops: int
    grpc: int
    token: str
    unbound_token: str
    victim_org: str
    known_token_id: str

    @property
    def host(self) -> str:
        """The Host header of requests to the proxy."""
        return f"{LOOPBACK}:{self.proxy}"


class Pace:
    """Limits callers to a rate, evenly; late callers do not catch up."""

    def __init__(self, a_second: float) -> None:
        self._every = 1 / a_second
        self._next = 0.0

    async def turn(self) -> None:
        """Wait for the next turn."""
        now = time.monotonic()
        self._next = max(self._next, now - 0.1) + self._every
        if self._next > now:
            await asyncio.sleep(self._next - now)


@asynccontextmanager
async def held(port: int, tally: Tally) -> AsyncIterator[Connection]:
    """Open a connection and measure how long it is held; close it at the end."""
    try:
        connection = await asyncio.wait_for(Connection.open(LOOPBACK, port, tally.answered), 10)
    except OSError as error:  # includes TimeoutError
        tally.not_opened[type(error).__name__] += 1
        raise
    tally.open()
    began = time.monotonic()
    try:
        yield connection
    finally:
        tally.held -= 1
        if connection.closed.is_set():
            tally.closed_by_server(connection.last_status, time.monotonic() - began)
        else:
            connection.abort()


async def hold(
    port: int,
    tally: Tally,
    count: int,
    script: Script,
    *,
    opens_a_second: float = OPENS_A_SECOND,
    reopens_a_second: float = REOPENS_A_SECOND,
) -> None:
    """Keep connections open, each with a script that returns once its connection is closed; then open a new one."""
    opening, reopening = Pace(opens_a_second), Pace(reopens_a_second)

    async def one() -> None:
        pace = opening
        while True:
            await pace.turn()
            pace = reopening
            try:
                async with held(port, tally) as connection:
                    with suppress(ConnectionError):
                        await script(connection)
            except OSError:
                await asyncio.sleep(_NO_CONNECTION_S)

    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(one())


async def flood(
    port: int,
    tally: Tally,
    make: Callable[[], bytes],
    *,
    a_second: float = FLOOD_A_SECOND,
    connections: int = FLOOD_CONNECTIONS,
) -> None:
    """Send requests at a rate, one at a time on each connection: fewer if they are not answered fast enough."""
    pace = Pace(a_second)

    async def script(connection: Connection) -> None:
        while True:
            await pace.turn()
            sent = make()
            tally.sent += 1
            tally.largest_request = max(tally.largest_request, len(sent))
            await connection.ask(sent)

    await hold(port, tally, connections, script, reopens_a_second=OPENS_A_SECOND)
