"""A proxy in front of two auth replicas, under a load of known tokens that are continually revalidated."""

from __future__ import annotations

import signal
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Final

import httpx
import psycopg

from harness.load import Load
from harness.production import BOOTSTRAP, Production
from harness.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.clickhouse import ClickHouseDatabase
    from harness.postgres import PostgresDatabase
    from harness.process import IbexProcess

REPLICAS: Final = 2
WORKERS: Final = 2
WAIT_S: Final = 20.0
CHANGE_EVERY_S: Final = 0.2
_CHANGE: Final = "UPDATE organizations SET rate_limit_rpm = 1000000 + (rate_limit_rpm + 1) % 1000"
_METRICS_AT: Final = "health and metrics on"


@dataclass(slots=True)
class AuthReplicas:
    """Two auth replicas on ports of their own, a proxy that uses both, and the tokens of the load."""

    production: Production
    database: PostgresDatabase
    replicas: list[IbexProcess]
    ports: list[int]
    tokens: list[str]
    address: str

    @classmethod
    @contextmanager
    def running(
        cls,
        postgres: PostgresDatabase,
        clickhouse: ClickHouseDatabase,
        redis_url: str,
        folder: Path,
        *,
        tokens: int,
        **environ: str,
    ) -> Iterator[AuthReplicas]:
        """Start everything, and stop it afterwards; ``environ`` is for all processes."""
        production = Production.over(postgres, clickhouse, redis_url, folder, **environ)
        agent_id = production.ibex(*BOOTSTRAP, "--json")["agent_id"]
        create = ("token", "create", "--agent", agent_id, "--json", "--name")
        made = [production.ibex(*create, str(number))["token"] for number in range(tokens)]
        with psycopg.connect(postgres.superuser_url) as connection:
            connection.execute("UPDATE organizations SET rate_limit_rpm = 1000000")
        with ExitStack() as stack:
            stack.callback(production.stop)
            ports = [free_port() for _ in range(REPLICAS)]
            replicas = [production.start_auth(IBEX_AUTH_LISTEN=f"127.0.0.1:{port}") for port in ports]
            production.environ["IBEX_AUTH_ADDRESS"] = ",".join(f"127.0.0.1:{port}" for port in ports)
            address = production.start_proxy(WORKERS)
            yield cls(production, postgres, replicas, ports, made, address)

    def load(self, clients: int, a_second: float | None) -> Load:
        """Return a load that uses the tokens in turn."""
        return Load(self.address, cycle(self.tokens).__next__, clients, a_second=a_second)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Change the organization five times a second, so that every worker validates every token again."""
        ends = threading.Event()
        thread = threading.Thread(target=self._change_until, args=(ends,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ends.set()
            thread.join(WAIT_S)

    def _change_until(self, ends: threading.Event) -> None:
        with psycopg.connect(self.database.superuser_url, autocommit=True) as connection:
            while not ends.wait(CHANGE_EVERY_S):
                connection.execute(_CHANGE)

    def restart(self, number: int, by: signal.Signals) -> None:
        """Stop a replica with a signal and start it again on its port."""
        old = self.replicas[number]
        self.production.processes.remove(old)
        assert old.stop(by) == (0 if by == signal.SIGTERM else -by)
        addresses = self.production.environ["IBEX_AUTH_ADDRESS"]
        self.replicas[number] = self.production.start_auth(IBEX_AUTH_LISTEN=f"127.0.0.1:{self.ports[number]}")
        self.production.environ["IBEX_AUTH_ADDRESS"] = addresses

    def freeze(self, number: int) -> None:
        """Stop a replica with SIGSTOP."""
        self.replicas[number].process.send_signal(signal.SIGSTOP)

    def thaw(self, number: int) -> None:
        """Let a replica continue."""
        self.replicas[number].process.send_signal(signal.SIGCONT)

    def validations(self, number: int) -> int:
        """Return how many tokens a replica has validated since its start."""
        started = self.replicas[number].wait_for_line(_METRICS_AT, WAIT_S)
        address = started.partition(f"{_METRICS_AT} ")[2].partition('"')[0]
        lines = httpx.get(f"{address}/metrics", trust_env=False).text.splitlines()
        return sum(int(float(line.rpartition(" ")[2])) for line in lines if _counts_validations(line))


def _counts_validations(line: str) -> bool:
    return line.startswith("ibex_auth_call_duration_seconds_count") and 'method="ValidateToken"' in line
