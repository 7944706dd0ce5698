"""Auth and a proxy with two workers on a pair of PostgreSQL servers, behind a relay and, if wanted, PgBouncer."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import psycopg

from harness.failover import PostgresPair
from harness.openai import ScriptedOpenAI
from harness.pgbouncer import pgbouncer
from harness.production import BOOTSTRAP, PATIENCE, Production
from harness.request_load import at_a_rate, chat_request
from ibex.adapters.postgres.roles import APP_ROLE, AUTH_ROLE
from ibex.adapters.postgres.server import DATABASE, OWNER_ROLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from harness.clickhouse import ClickHouseDatabase

WAIT_S = 30.0
POLL_S = 0.05
MODEL = "gpt-4o"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a load: the responses, those that were not 200, and how long the slowest took, in seconds."""

    requests: int
    failed: int
    statuses: dict[int, int]
    slowest_s: float
    ids: tuple[UUID, ...]


@dataclass(slots=True)
class FailoverStack:
    """The running processes, and the token of an agent with a directive."""

    pair: PostgresPair
    production: Production
    address: str
    token: str

    @classmethod
    @contextmanager
    def running(
        cls, folder: Path, clickhouse: ClickHouseDatabase, redis_url: str, pooler: str | None
    ) -> Iterator[FailoverStack]:
        """Start everything, with the PgBouncer at a path between IBEX and the relay, or without one."""
        with ExitStack() as stack:
            pair = stack.enter_context(PostgresPair.running(folder))
            port = pair.relay.port
            if pooler is not None:
                port = stack.enter_context(pgbouncer(pooler, f"host=127.0.0.1 port={port}"))
            roles = (("", APP_ROLE), ("AUTH_", AUTH_ROLE), ("OWNER_", OWNER_ROLE))
            urls = {
                f"IBEX_{name}DATABASE_URL": f"postgresql://{role}@127.0.0.1:{port}/{DATABASE}" for name, role in roles
            }
            provider = stack.enter_context(ScriptedOpenAI.in_thread()).base_url
            keys = {"OPENAI_API_KEY": "sk-scripted", "OPENAI_BASE_URL": provider}
            production = Production.over(pair.database, clickhouse, redis_url, folder, **keys, **PATIENCE, **urls)
            stack.callback(production.stop)
            production.ibex("migrate")
            made = production.ibex(*BOOTSTRAP, "--json")
            production.start_auth()
            yield cls(pair, production, production.start_proxy(2), made["agent_token"])

    async def under_load(
        self, work: Callable[[], object], *, a_second: float, seconds: float, after_s: float
    ) -> Outcome:
        """Send requests at a rate, do some blocking work after a while, and return the outcome of the load."""
        ids = [uuid4() for _ in range(int(2 * a_second * seconds))]
        base_url = f"{self.address}/v1"
        own = {"authorization": f"Bearer {self.token}"}
        requests = [chat_request(base_url, MODEL, {**own, "x-request-id": str(request_id)}) for request_id in ids]
        loading = asyncio.create_task(
            asyncio.to_thread(at_a_rate, base_url, requests, a_second=a_second, seconds=seconds, warm_up_s=0)
        )
        await asyncio.sleep(after_s)
        await asyncio.to_thread(work)
        load = await loading
        return Outcome(
            round(a_second * seconds),
            load.failed,
            dict(Counter(answer.status for answer in load.answers)),
            max(answer.overhead_ns for answer in load.answers) / 1e9,
            tuple(ids),
        )

    def wait_until_recorded(self, outcome: Outcome) -> Counter[UUID]:
        """Wait until as many requests have a checkpoint as were answered, and return the checkpoints by request."""
        deadline = time.monotonic() + WAIT_S
        while (found := self._checkpoints(outcome)).total() < outcome.requests - outcome.failed:
            assert time.monotonic() < deadline, f"{found.total()} of {outcome.requests}"
            time.sleep(POLL_S)  # PostgreSQL sends no notification
        return found

    def _checkpoints(self, outcome: Outcome) -> Counter[UUID]:
        ids = set(outcome.ids)
        with psycopg.connect(self.pair.database.superuser_url) as connection:
            rows = connection.execute("SELECT request_id FROM checkpoints").fetchall()
        return Counter(request_id for (request_id,) in rows if request_id in ids)
