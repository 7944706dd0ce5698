"""A proxy whose records a test observes while PostgreSQL, ClickHouse or the journal's disk fails."""

from __future__ import annotations

import json
import signal
import sqlite3
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import httpx
import psycopg

from harness.clickhouse import ClickHouseDatabase
from harness.command import run_ibex
from harness.openai import ScriptedOpenAI
from harness.production import BOOTSTRAP, PATIENCE_IN_AN_OUTAGE, Production
from harness.relay import Relay
from ibex.adapters.clickhouse.connection import disconnect
from ibex.adapters.clickhouse.engine import ClickHouseEngine
from ibex.adapters.clickhouse.migrate import migrate
from ibex.adapters.journal.directories import JOURNAL
from ibex.adapters.postgres.roles import APP_ROLE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.postgres import PostgresDatabase

WAIT_S = 30.0
"""How long a test waits for what must happen; only a failing one waits so long."""
POLL_S = 0.05
CLIENTS = 4
_END = 300


@dataclass(frozen=True, slots=True)
class Answer:
    """The response of a client: the status, whether a valid response arrived in full, and its end if it did not."""

    request_id: UUID
    status: int
    complete: bool
    incomplete_end: str


@dataclass(frozen=True, slots=True)
class Counting:
    """The growth of one of the proxy's counters since a moment."""

    stack: RecordStack
    name: str
    sink: str
    before: float

    def grown(self) -> float:
        """Return the growth of the counter."""
        return self.stack.metric(self.name, sink=self.sink) - self.before

    def wait(self) -> None:
        """Wait until the counter has grown."""
        deadline = time.monotonic() + WAIT_S
        while self.grown() == 0:
            assert time.monotonic() < deadline, f"{self.name} stayed at {self.before}"
            time.sleep(POLL_S)  # there is no notification


@dataclass(slots=True)
class RecordStack:
    """A running stack. The proxy reaches PostgreSQL through ``to_postgres``; everything else connects directly."""

    production: Production
    postgres: PostgresDatabase
    clickhouse: ClickHouseDatabase
    engine: ClickHouseEngine
    to_postgres: Relay
    token: str
    client: httpx.Client
    address: str = ""

    @classmethod
    @contextmanager
    def running(cls, postgres: PostgresDatabase, redis_url: str, folder: Path) -> Iterator[RecordStack]:
        """Start an engine, a provider and auth; ``start_proxy`` starts the proxy. Everything stops with the block."""
        with ExitStack() as stack:
            engine = ClickHouseEngine(folder / "clickhouse")
            stack.callback(engine.stop)
            engine.start()
            clickhouse = ClickHouseDatabase(f"{engine.url}/ibex", "ibex")
            migrate(clickhouse.url)
            provider = stack.enter_context(ScriptedOpenAI.in_thread())
            keys = {"OPENAI_API_KEY": "sk-scripted", "OPENAI_BASE_URL": provider.base_url}
            keys |= PATIENCE_IN_AN_OUTAGE
            production = Production.over(postgres, clickhouse, redis_url, folder, **keys)
            made = production.ibex(*BOOTSTRAP, "--json")
            relay = stack.enter_context(Relay.running(postgres.socket))
            stack.callback(production.stop)
            production.start_auth()
            client = stack.enter_context(httpx.Client(trust_env=False, timeout=WAIT_S))
            yield cls(production, postgres, clickhouse, engine, relay, made["agent_token"], client)

    def start_proxy(self, **environ: str) -> None:
        """Start a proxy with one process."""
        url = f"postgresql://{APP_ROLE}@127.0.0.1:{self.to_postgres.port}/{self.postgres.name}"
        self.address = self.production.start_proxy(1, IBEX_DATABASE_URL=url, **environ)

    def restart_proxy(self, **environ: str) -> None:
        """Stop the proxy gracefully and start another."""
        assert self.production.processes.pop().stop(signal.SIGTERM) == 0
        self.start_proxy(**environ)

    def ask(self, number: int, *, model: str = "gpt-4o") -> list[Answer]:
        """Send chat requests, every second one streamed, from a few concurrent clients; return their responses."""
        with ThreadPoolExecutor(CLIENTS) as threads:
            return list(threads.map(lambda n: self._ask(model, streamed=n % 2 == 1), range(number)))

    def ask_as(self, token: str) -> Answer:
        """Send one chat request with another token."""
        return self._ask("gpt-4o", streamed=False, token=token)

    def _ask(self, model: str, *, streamed: bool, token: str | None = None) -> Answer:
        request_id = uuid4()
        body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "stream": streamed}
        headers = {
            "Authorization": f"Bearer {token or self.token}",
            "X-Request-ID": str(request_id),
            "X-IBEX-Session-ID": "a-conversation",
        }
        answer = self.client.post(f"{self.address}/v1/chat/completions", json=body, headers=headers)
        whole = answer.text.endswith("data: [DONE]\n\n") if streamed else "choices" in answer.json()
        complete = answer.status_code == httpx.codes.OK and whole
        return Answer(request_id, answer.status_code, complete, "" if complete else answer.text[-_END:])

    def assert_recorded(
        self, answers: list[Answer], *, traces: int | None = None, checkpoints: int | None = None
    ) -> None:
        """Wait until each request has its checkpoint and its trace, and assert that there are no duplicates.

        ``checkpoints`` and ``traces`` are the numbers of requests that have one, if not all do; a number below 0 skips
        the check.
        """
        asked = {answer.request_id for answer in answers}
        for read, expected in ((self.checkpoints, checkpoints), (self.traces, traces)):
            if expected is not None and expected < 0:
                continue
            wanted = len(asked) if expected is None else expected
            deadline = time.monotonic() + WAIT_S
            while (found := Counter(one for one in read() if one in asked)).total() < wanted:
                assert time.monotonic() < deadline, f"{found.total()} of {wanted} by {read.__name__}"
                time.sleep(POLL_S)  # the databases send no notification
            assert (len(found), found.total()) == (wanted, wanted)
        assert self.turns() == list(range(len(self.turns())))

    def checkpoints(self) -> list[UUID]:
        """Return the request ids of all checkpoints."""
        return [row[0] for row in self._rows("SELECT request_id FROM checkpoints")]

    def turns(self) -> list[int]:
        """Return the turn indices of these tests' session."""
        return [row[0] for row in self._rows("SELECT turn_index FROM checkpoints ORDER BY turn_index")]

    def traces(self) -> list[UUID]:
        """Return the request ids of all traces."""
        client = self.clickhouse.client()
        try:
            return [row[0] for row in client.query("SELECT request_id FROM ibex.llm_traces").result_rows]
        finally:
            disconnect(client)

    def tell_clickhouse(self, change: str) -> None:
        """Alter the table of traces."""
        client = self.clickhouse.client()
        client.command(f"ALTER TABLE ibex.llm_traces {change}")
        disconnect(client)

    def ready(self) -> tuple[str, set[str]]:
        """Return the status that /ready reports, and the checks that failed."""
        said = self._get("/ready").json()
        return said["status"], {name for name, check in said["checks"].items() if check["status"] != "ok"}

    def assert_degraded(self, *checks: str) -> None:
        """Assert that the proxy is still ready, and that these checks are among the failed ones.

        On a busy machine, others may also fail.
        """
        status, failed = self.ready()
        assert status == "degraded"
        assert failed >= set(checks), failed

    def wait_until_ready(self) -> None:
        """Wait until /ready reports ok."""
        deadline = time.monotonic() + WAIT_S
        while self.ready() != ("ok", set()):
            assert time.monotonic() < deadline, self.ready()
            time.sleep(POLL_S)

    def metric(self, name: str, **labels: str) -> float:
        """Return the value of a metric with these labels; 0 if it has no sample yet."""
        lines = self._get("/metrics").text.splitlines()
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        found = [
            line for line in lines if line.startswith((f"{name}{{", f"{name} ")) and all(w in line for w in wanted)
        ]
        return sum(float(line.rpartition(" ")[2]) for line in found)

    def counter(self, name: str, sink: str) -> Counting:
        """Return a counter with its present value."""
        return Counting(self, name, sink, self.metric(name, sink=sink))

    def dead_letters(self) -> list[tuple[str, str]]:
        """Return the sink and the request id of every dead letter."""
        files = self.production.folder.rglob("dead-letters.jsonl")
        letters = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        return [(letter["sink"], letter["exchange"]["request_id"]) for letter in letters]

    @contextmanager
    def stalled_journal(self) -> Iterator[None]:
        """Stall every commit of the proxy's journal for the block, as a slow disk does. It must not last 5 s."""
        with ExitStack() as locks:
            for path in self.production.folder.rglob(JOURNAL):
                journal = locks.enter_context(closing(sqlite3.connect(path, isolation_level=None)))
                journal.execute("BEGIN IMMEDIATE")
            yield

    def change(self) -> tuple[int, str]:
        """Attempt an administrative change; return the command's exit code and output. Propagates unexpected errors."""
        home = self.production.folder / ".ibex"
        done = run_ibex(home, self.production.environ, "directive", "set", "one", "Be clear.")
        return done.returncode, done.stdout + done.stderr

    def alter(self, statement: str) -> None:
        """Run a statement as the server's superuser."""
        with psycopg.connect(self.postgres.superuser_url, autocommit=True) as connection:
            connection.execute("SET default_transaction_read_only = off")
            connection.execute(statement.encode())
            connection.execute("SELECT pg_reload_conf()")

    def _get(self, path: str) -> httpx.Response:
        return self.client.get(f"{self.address}{path}")

    def _rows(self, query: str) -> list[Any]:
        with psycopg.connect(self.postgres.superuser_url) as connection:
            return connection.execute(query.encode()).fetchall()
