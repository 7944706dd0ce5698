"""Two proxies with workers, which restart in turn under load, and the servers that they need."""

from __future__ import annotations

import signal
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from harness.production import BOOTSTRAP, PATIENCE, START_TIMEOUT_S, Production
from harness.servers import fast_provider, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.clickhouse import ClickHouseDatabase
    from harness.postgres import PostgresDatabase
    from harness.process import IbexProcess

DELAY_S: Final = 1.0
FINISH_S: Final = 10.0


@dataclass(slots=True)
class Rolling:
    """One auth, and proxies on ports of their own. ``proxies`` holds those that run, by address."""

    production: Production
    token: str
    proxies: dict[str, IbexProcess] = field(default_factory=dict)

    @classmethod
    @contextmanager
    def running(
        cls, postgres: PostgresDatabase, clickhouse: ClickHouseDatabase, redis_url: str, folder: Path, **environ: str
    ) -> Iterator[Rolling]:
        """Start auth and a provider, and stop everything afterwards."""
        with ExitStack() as stack:
            provider = stack.enter_context(
                fast_provider("--events", "20", "--events-a-second", "40", "--first-s", "0.1")
            )
            settings = {
                **PATIENCE,
                "OPENAI_API_KEY": "sk-rolling",
                "OPENAI_BASE_URL": provider,
                "IBEX_DRAIN_DELAY": str(DELAY_S),
                "IBEX_SHUTDOWN_TIMEOUT": str(FINISH_S),
                **environ,
            }
            production = Production.over(postgres, clickhouse, redis_url, folder, **settings)
            token = production.ibex(*BOOTSTRAP, "--json")["agent_token"]
            stack.callback(production.stop)
            production.start_auth(IBEX_DRAIN_DELAY="0")
            yield cls(production, token)

    def start(self, workers: int, address: str | None = None, **environ: str) -> str:
        """Start a proxy, on the address of an earlier one if it is given, and return its address."""
        port = free_port() if address is None else int(address.rpartition(":")[2])
        address = self.production.start_proxy(workers, IBEX_PORT=str(port), **environ)
        self.proxies[address] = self.production.processes[-1]
        return address

    def restart(self, address: str, workers: int) -> None:
        """Let a proxy end after SIGTERM, and start another one in its place."""
        self.end(address)
        self.start(workers, address)

    def end(self, address: str) -> None:
        """Send SIGTERM to a proxy, which must exit cleanly."""
        old = self.proxies.pop(address)
        assert old.stop(signal.SIGTERM) == 0, "\n".join(old.lines)
        self.production.processes.remove(old)

    def replace_workers(self, address: str, times: int = 1) -> None:
        """Send SIGHUP to a proxy, and wait until all of its workers are replaced for this many times in total."""
        self.proxies[address].process.send_signal(signal.SIGHUP)
        self.proxies[address].wait_for_lines("all workers are replaced", times, 2 * START_TIMEOUT_S)
