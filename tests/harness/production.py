"""Auth and the proxy as processes of their own, over real servers: the production wiring on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.command import run_ibex
from harness.process import STOP_TIMEOUT_S, IbexProcess

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.clickhouse import ClickHouseDatabase
    from harness.postgres import PostgresDatabase

START_TIMEOUT_S = 30
COMMAND_TIMEOUT_S = 120
PATIENCE = {"IBEX_AUTH_TIMEOUT": "0.8", "IBEX_REDIS_TIMEOUT": "0.5"}
"""Settings with which a slow answer of a busy machine is not taken for a fault."""
PATIENCE_IN_AN_OUTAGE = {"IBEX_AUTH_TIMEOUT": "2", "IBEX_REDIS_TIMEOUT": "2"}
"""The same while PostgreSQL is down: a request then needs Redis, and auth reports the outage within 0.7 of its limit.

If either is late on a busy machine, that is a second fault, and the worker refuses the request.
"""
SERVICE_TOKEN = "a-service-token-for-tests-0123456789"
BOOTSTRAP = (
    "bootstrap",
    "--org",
    "acme",
    "--admin-email",
    "a@acme.example",
    "--agent",
    "one",
    "--directive",
    "Be brief.",
)


@dataclass(slots=True)
class Production:
    """The environment of processes, and the processes that were started."""

    environ: dict[str, str]
    folder: Path
    processes: list[IbexProcess] = field(default_factory=list)
    python: str = sys.executable

    @classmethod
    def over(
        cls, postgres: PostgresDatabase, clickhouse: ClickHouseDatabase, redis_url: str, folder: Path, **environ: str
    ) -> Production:
        """Return a production with the settings of these servers; ``environ`` takes precedence."""
        settings = {
            "IBEX_PORT": "0",
            "IBEX_DATABASE_URL": postgres.app_url,
            "IBEX_AUTH_DATABASE_URL": postgres.auth_url,
            "IBEX_CLICKHOUSE_URL": clickhouse.url,
            "IBEX_REDIS_URL": redis_url,
            "IBEX_TOKEN_PEPPERS": "k:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
            "IBEX_AUTH_SERVICE_TOKEN": SERVICE_TOKEN,
            "IBEX_AUTH_LISTEN": "127.0.0.1:0",
            "IBEX_AUTH_OPS_LISTEN": "127.0.0.1:0",
            "IBEX_JOURNAL_DIR": str(folder / "journal"),
            # A test machine is busy, and its speed is not tested.
            "IBEX_AUTH_TIMEOUT": "2",
            "IBEX_RATE_LIMIT_DEFAULT_RPM": "0",
        }
        return cls({**settings, **environ}, folder)

    def start_auth(self, **environ: str) -> IbexProcess:
        """Start an auth replica; proxies that are started later use the latest one."""
        auth = self._spawn(["auth", "serve"], environ)
        self.processes.append(auth)
        port = _event(auth, "serving gRPC on port").split("port ")[1].partition(",")[0]
        self.environ["IBEX_AUTH_ADDRESS"] = f"127.0.0.1:{port}"
        return auth

    def start_proxy(self, workers: int = 1, **environ: str) -> str:
        """Start a proxy and return its address once all of its workers listen."""
        proxy = self.spawn_proxy(workers, **environ)
        self.processes.append(proxy)
        address = _event(proxy, "listening on").removeprefix("listening on ")
        proxy.wait_for_lines("listening on", workers, START_TIMEOUT_S)
        return address

    def workers(self) -> set[int]:
        """Return the pids of the workers of the process that was started last."""
        tasks = Path(f"/proc/{self.processes[-1].process.pid}/task").glob("*/children")
        return {int(pid) for task in tasks for pid in task.read_text().split()}

    def spawn_proxy(self, workers: int, **environ: str) -> IbexProcess:
        """Start a proxy without waiting for it."""
        return self._spawn(["serve", *(("--workers", str(workers)) if workers > 1 else ())], environ)

    def _spawn(self, arguments: list[str], environ: Mapping[str, str]) -> IbexProcess:
        return IbexProcess.spawn(arguments, {**self.environ, **environ}, self.folder, python=self.python)

    def ibex(self, *arguments: str) -> Any:
        """Run a command with ``--json``, which must succeed. Return its output; None if it prints nothing."""
        done = run_ibex(self.folder / ".ibex", self.environ, *arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) if done.stdout.startswith(("{", "[")) else None

    def command(self, *arguments: str, **environ: str) -> str:
        """Run a command as a process, with the interpreter and environment of the others, and return its output.

        Raises ``RuntimeError`` with the command's stderr, unless the exit code is 0.
        """
        done = subprocess.run(
            [self.python, "-m", "ibex.entrypoints.cli", *arguments],
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder), **self.environ, **environ},
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"ibex {arguments[0]} ended with exit code {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def stop(self) -> None:
        """Stop all processes, the last first; each must exit cleanly."""
        while self.processes:
            self.stop_latest()

    def stop_latest(self, timeout_s: float = STOP_TIMEOUT_S) -> float:
        """Stop the process that was started last, which must exit cleanly, and return the seconds that it took."""
        began = time.monotonic()
        process = self.processes.pop()
        if process.process.poll() is None:
            process.process.send_signal(signal.SIGCONT)
            assert process.stop(signal.SIGTERM, timeout_s) == 0, "\n".join(process.lines)
        else:
            process.wait()
        return time.monotonic() - began


def _event(process: IbexProcess, text: str) -> str:
    return str(json.loads(process.wait_for_line(text, START_TIMEOUT_S))["event"])
