"""`make bench-record ARGS="--organizations 1 50 500"`: how the session store keeps up with many organizations.

Turns arrive at a fixed rate, in turn for each organization, and are appended in batches as delivery makes them: 200 ms
or 1,000 turns, whichever comes first. The delay of a turn lasts from its arrival until the append of its batch returns.
All writers, one per worker of a proxy, append turns of all organizations.
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harness.postgres import PostgresDatabase, another_database
from harness.tenants import attach
from harness.turns import new_turn
from ibex.adapters.postgres import migrate
from ibex.adapters.postgres.database import Database
from ibex.adapters.postgres.identity import PostgresIdentity
from ibex.adapters.postgres.roles import APP_ROLE, AUTH_ROLE
from ibex.adapters.postgres.server import PostgresServer
from ibex.adapters.postgres.sessions import PostgresSessions
from ibex.domain.record.delivery import BATCH_ROWS, LINGER_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ibex.domain.identity.management import NamedAgent

SESSIONS_PER_ORGANIZATION: Final = 10
WARM_UP_S: Final = 1.0


@dataclass(slots=True)
class Appended:
    """The turns that the writers appended. Times are in seconds."""

    delays: list[float] = field(default_factory=list)
    batches: list[float] = field(default_factory=list)
    drained: float = 0.0


def measure_organizations(counts: Sequence[int], writers: int, rate: float, seconds: float) -> None:
    """Measure each number of organizations on an empty database, and print a line for each."""
    folder = Path(tempfile.mkdtemp(prefix="ibex-bench-"))
    server = PostgresServer(folder / "postgres")
    server.start()
    _say(f"{rate:,.0f} turns/s for {seconds:g} s, {writers} writers")
    try:
        for count in counts:
            _report(count, append_for_organizations(server, count, writers, rate, seconds))
    finally:
        server.stop()
        shutil.rmtree(folder)


def append_for_organizations(server: PostgresServer, count: int, writers: int, rate: float, seconds: float) -> Appended:
    """Append turns of this many organizations to an empty database of a running server, at a rate."""
    with another_database(server) as database:
        migrate.upgrade(database.owner_url)
        return asyncio.run(_measure(database, count, writers, rate, seconds))


async def _measure(database: PostgresDatabase, count: int, writers: int, rate: float, seconds: float) -> Appended:
    auth = Database(database.auth_url, AUTH_ROLE)
    await auth.open()
    identity = PostgresIdentity(auth)
    agents = [await attach(identity) for _ in range(count)]
    await auth.close()
    stores = [Database(database.app_url, APP_ROLE) for _ in range(writers)]
    for store in stores:
        await store.open()
    appended = Appended()
    for measured, length in ((Appended(), WARM_UP_S), (appended, seconds)):
        began = time.monotonic()
        await asyncio.gather(
            *(
                _write(PostgresSessions(store), agents[number:] + agents[:number], rate / writers, length, measured)
                for number, store in enumerate(stores)
            )
        )
        measured.drained = time.monotonic() - began
    for store in stores:
        await store.close()
    return appended


async def _write(
    store: PostgresSessions, agents: Sequence[NamedAgent], rate: float, seconds: float, appended: Appended
) -> None:
    began, total, done = time.monotonic(), round(rate * seconds), 0
    while done < total:
        arrived = min(total, int((time.monotonic() - began) * rate))
        if arrived - done < BATCH_ROWS and arrived < total:
            await asyncio.sleep(LINGER_S)
            arrived = min(total, int((time.monotonic() - began) * rate))
        batch = range(done, min(arrived, done + BATCH_ROWS))
        turns = [new_turn(agents[n % len(agents)], f"s{n // len(agents) % SESSIONS_PER_ORGANIZATION}") for n in batch]
        started = time.monotonic()
        await store.append(turns)
        ended = time.monotonic()
        appended.batches.append(ended - started)
        appended.delays.extend(ended - began - n / rate for n in batch)
        done = batch.stop


def _report(count: int, appended: Appended) -> None:
    rows, busy = len(appended.delays), sum(appended.batches)
    _say(
        f"  {count:5,} organizations: {rows / appended.drained:6,.0f} rows/s ({rows / busy:7,.0f} while at it);"
        f" delay median {statistics.median(appended.delays) * 1_000:6,.0f} ms, worst"
        f" {max(appended.delays) * 1_000:6,.0f} ms; {len(appended.batches)} batches of"
        f" {rows / len(appended.batches):4,.0f} rows, median {statistics.median(appended.batches) * 1_000:5,.0f} ms"
    )


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
