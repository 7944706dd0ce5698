"""The oracle: under load and faults, every response that a client received in full is recorded exactly once.

A test runs it for some seconds; ``python -m harness.oracle --minutes 10`` runs it for longer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING
from uuid import UUID

import psycopg
from psycopg.rows import dict_row

from harness.clickhouse import ClickHouseDatabase
from harness.failover import PostgresPair
from harness.journal_gauge import JournalGauge
from harness.oracle_faults import OracleFaults
from harness.oracle_load import CountingOpenAI, OracleLoad
from harness.oracle_verdict import Evidence, Findings
from harness.pgbouncer import pgbouncer, pgbouncer_program
from harness.postgres import PostgresDatabase
from harness.production import BOOTSTRAP, Production
from harness.redis import RedisServer, redis_server_program
from harness.small_disk import mounted
from ibex.adapters.clickhouse.connection import ClickHouseAddress, disconnect
from ibex.adapters.clickhouse.engine import ClickHouseEngine
from ibex.adapters.clickhouse.migrate import migrate
from ibex.adapters.postgres import migrate as postgres_migrate
from ibex.adapters.postgres.roles import APP_ROLE, AUTH_ROLE
from ibex.adapters.postgres.server import DATABASE, PostgresServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from harness.oracle_verdict import Row
    from harness.process import IbexProcess

CLIENTS = 24
DRAIN_S = 60.0
DISK_BYTES = 64 * 1024 * 1024
NOT_KEPT = "exchange not journaled"


@dataclass(slots=True)
class Oracle:
    """A production stack of its own, under load and faults."""

    production: Production
    postgres: PostgresServer | PostgresPair
    clickhouse_url: str
    provider: CountingOpenAI
    load: OracleLoad
    faults: OracleFaults
    gauge: JournalGauge
    proxy: IbexProcess

    @classmethod
    @asynccontextmanager
    async def standing(
        cls, folder: Path, seed: int, kinds: Sequence[str] = (), *, fails_over: bool = False, pooler: str | None = None
    ) -> AsyncIterator[Oracle]:
        """Start all servers, auth and two workers; stop those that still run afterwards.

        ``kinds`` names the faults to inject; by default all of them. With ``fails_over``, PostgreSQL is a pair of
        servers. ``pooler`` is the path of a PgBouncer to run between IBEX and this pair.
        """
        random = Random(seed)  # noqa: S311 - it has to come again
        program = redis_server_program()
        assert program is not None
        with ExitStack() as stack:
            server: PostgresServer | PostgresPair
            if fails_over:
                server = await asyncio.to_thread(stack.enter_context, PostgresPair.running(folder))
            else:
                server = PostgresServer(folder / "postgres")
                stack.callback(server.stop)
                await asyncio.to_thread(server.start)
            engine = ClickHouseEngine(folder / "clickhouse")
            redis = RedisServer.on_free_port(program)
            stack.callback(redis.kill)
            stack.callback(engine.stop)
            for start in (engine.start, redis.start):
                await asyncio.to_thread(start)
            postgres = _database(server)
            urls = stack.enter_context(_urls(server, pooler))
            clickhouse_url = f"{engine.url}/ibex"
            await asyncio.to_thread(postgres_migrate.upgrade, postgres.owner_url)
            await asyncio.to_thread(migrate, clickhouse_url)
            disk = stack.enter_context(mounted(folder / "disk", DISK_BYTES))
            provider = CountingOpenAI()
            await provider.start()
            production = Production.over(
                postgres,
                ClickHouseDatabase(clickhouse_url, "ibex"),
                redis.url,
                folder,
                OPENAI_API_KEY="sk-oracle",
                OPENAI_BASE_URL=provider.base_url,
                OPENAI_RETRY_BASE_DELAY="0.01",
                IBEX_REDIS_TIMEOUT="0.2",
                IBEX_SHUTDOWN_TIMEOUT="5",
                IBEX_JOURNAL_DIR=str(folder / "disk" / "journal"),
                **urls,
            )
            stack.callback(production.stop)
            made = await asyncio.to_thread(production.ibex, *BOOTSTRAP, "--json")
            await asyncio.to_thread(production.start_auth)
            address = await asyncio.to_thread(production.start_proxy, 2)
            load = OracleLoad(address, made["agent_token"], random)
            proxy = production.processes[-1]
            faults = OracleFaults(proxy.process.pid, server, engine, redis, random, disk, kinds)
            gauge = JournalGauge(folder / "disk" / "journal")
            try:
                yield cls(production, server, clickhouse_url, provider, load, faults, gauge, proxy)
            finally:
                await provider.stop()

    async def run(self, seconds: float) -> Findings:
        """Run load and faults for some time, heal, wait for the delivery, stop the proxy, and return the findings."""
        loading = asyncio.create_task(self.load.run(CLIENTS))
        breaking = asyncio.create_task(self.faults.run())
        measuring = asyncio.create_task(self.gauge.run())
        await asyncio.wait([loading, breaking], timeout=seconds)
        self.faults.stopping = True
        await breaking
        self.load.stopping = True
        await loading
        await self._drained()
        measuring.cancel()
        await asyncio.to_thread(self.production.stop)
        return await asyncio.to_thread(self._look, seconds)

    async def _drained(self) -> None:
        """Wait, within a bound, until every request that reached the provider is recorded or known to be lost."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + DRAIN_S
        while loop.time() < deadline:
            checkpoints, traces = await asyncio.to_thread(lambda: (self._checkpoints(), self._traces()))
            on_record = {row["request_id"] for row in checkpoints} & {row["request_id"] for row in traces}
            if self.provider.received <= on_record | self._told() | self._unprotected():
                return
            await asyncio.sleep(0.2)

    def _look(self, seconds: float) -> Findings:
        asked = {one.id: one for one in self.load.asked}
        evidence = Evidence(
            asked,
            self.provider.received,
            self._checkpoints(),
            self._traces(),
            self._sessions(),
            self._told(),
            self._unprotected(),
        )
        findings = Findings(
            minutes=round(seconds / 60, 2),
            requests=len(asked),
            complete=sum(one.complete for one in asked.values()),
            received=len(evidence.received),
            checkpoints=len(evidence.checkpoints),
            traces=len(evidence.traces),
            faults=dict(sorted(self.faults.done.items())),
            statuses=dict(Counter(one.status for one in asked.values())),
            high_water_exchanges=self.gauge.most_exchanges,
            high_water_bytes=self.gauge.most_bytes,
        )
        evidence.judge(findings)
        return findings

    def _told(self) -> set[UUID]:
        """Return the requests whose exchange the proxy reported as not kept."""
        lines = [line for line in list(self.proxy.lines) if NOT_KEPT in line]
        return {UUID(json.loads(line)["request_id"]) for line in lines}

    def _unprotected(self) -> set[UUID]:
        windows = self.faults.full
        return {
            one.id for one in self.load.asked if any(one.began < end and one.ended > begin for begin, end in windows)
        }

    def _checkpoints(self) -> list[Row]:
        return self._rows("SELECT c.*, s.external_id FROM checkpoints c JOIN sessions s ON s.id = c.session_id")

    def _sessions(self) -> list[Row]:
        return self._rows("SELECT * FROM sessions")

    def _rows(self, query: str) -> list[Row]:
        with psycopg.connect(_database(self.postgres).superuser_url, row_factory=dict_row) as connection:
            return connection.execute(query.encode()).fetchall()

    def _traces(self) -> list[Row]:
        client = ClickHouseAddress.parse(self.clickhouse_url).connect()
        try:
            return list(client.query("SELECT * FROM ibex.llm_traces").named_results())
        finally:
            disconnect(client)


def _database(server: PostgresServer | PostgresPair) -> PostgresDatabase:
    return PostgresDatabase(server, DATABASE) if isinstance(server, PostgresServer) else server.database


@contextmanager
def _urls(server: PostgresServer | PostgresPair, pooler: str | None) -> Iterator[dict[str, str]]:
    """Yield the settings with which IBEX reaches a pair of servers; none for a single server."""
    if isinstance(server, PostgresServer):
        yield {}
        return
    with ExitStack() as stack:
        port = server.relay.port
        if pooler is not None:
            port = stack.enter_context(pgbouncer(pooler, f"host=127.0.0.1 port={port}"))
        urls = {"IBEX_DATABASE_URL": APP_ROLE, "IBEX_AUTH_DATABASE_URL": AUTH_ROLE}
        yield {name: f"postgresql://{role}@127.0.0.1:{port}/{DATABASE}" for name, role in urls.items()}


async def ask_the_oracle(
    seconds: float, seed: int, kinds: Sequence[str] = (), *, fails_over: bool = False, pooler: str | None = None
) -> Findings:
    """Run the oracle once in its own folder; see ``Oracle.standing``."""
    with tempfile.TemporaryDirectory(prefix="ibex-oracle-") as folder:
        async with Oracle.standing(Path(folder), seed, kinds, fails_over=fails_over, pooler=pooler) as oracle:
            return await oracle.run(seconds)


def main() -> int:
    """Run it, print what was found as JSON; the exit code is 1 if anything does not add up."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", action="append", default=[], help="a kind of fault; may be given several times")
    parser.add_argument(
        "--fail-over", action="store_true", help="two PostgreSQL servers, and fail-overs among the faults"
    )
    parser.add_argument("--pooler", action="store_true", help="PgBouncer before them; implies --fail-over")
    options = parser.parse_args()
    pooler = pgbouncer_program() if options.pooler else None
    if options.pooler and pooler is None:
        parser.error("there is no pgbouncer")
    fails_over = options.fail_over or options.pooler
    findings = asyncio.run(
        ask_the_oracle(options.minutes * 60, options.seed, options.only, fails_over=fails_over, pooler=pooler)
    )
    summary = {name: getattr(findings, name) for name in Findings.__slots__}
    sys.stdout.write(json.dumps(summary | {"wrong": findings.wrong[:50]}, indent=2) + "\n")
    return 1 if findings.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
