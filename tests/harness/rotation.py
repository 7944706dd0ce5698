"""Secrets in files that a running production stack reads: auth replicas and a proxy's workers, under load."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx
import psycopg

from harness.openai import ScriptedOpenAI
from harness.servers import free_port
from harness.stack import Stack, stack_without_proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

REPLICAS: Final = 2
WORKERS: Final = 2
TOKENS: Final = 8
CLIENTS: Final = 4
WAIT_S: Final = 20.0
AFTERWARDS_S: Final = 1.0
"""How long the load goes on once a new value is in use."""
OK: Final = 200
PASSWORDS: Final = {"ibex_app": "first-app-password-51c0", "ibex_auth": "first-auth-password-9fe2"}
REDIS_PASSWORD: Final = "first-redis-password-77c2"
OPS: Final = "health and metrics on "


class MountedSecret:
    """A folder of files as Kubernetes mounts a Secret: links through ``..data``, which an update replaces at once."""

    def __init__(self, folder: Path, values: Mapping[str, str]) -> None:
        self._folder = folder
        self._values: dict[str, str] = {}
        self._updates = 0
        folder.mkdir()
        self.update(values)
        for name in values:
            (folder / name).symlink_to(f"..data/{name}")

    def path(self, name: str) -> Path:
        """Return the path at which IBEX reads a file."""
        return self._folder / name

    def update(self, values: Mapping[str, str]) -> float:
        """Replace some of the files, all at the same moment. Return that moment, in monotonic seconds."""
        self._values |= values
        self._updates += 1
        former = (self._folder / "..data").readlink() if self._updates > 1 else None
        current = self._folder / f"..{self._updates}"
        current.mkdir()
        for name, value in self._values.items():
            (current / name).write_text(value)
        link = self._folder / "..data_tmp"
        link.symlink_to(current.name)
        link.replace(self._folder / "..data")
        if former is not None:
            shutil.rmtree(self._folder / former)
        return time.monotonic()


@dataclass(slots=True)
class ChatLoad:
    """Clients in a closed loop, each of which sends chat completions with several tokens in turn."""

    address: str
    tokens: list[str]
    statuses: list[tuple[float, int | str]] = field(default_factory=list)
    """For each request: when it was sent, in monotonic seconds, and its status, or the type of its error."""
    _stopping: bool = False

    @contextmanager
    def running(self) -> Iterator[ChatLoad]:
        """Send requests until the block ends."""
        thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        thread.start()
        try:
            wait_until(lambda: len(self.statuses) > CLIENTS)
            yield self
            ends = time.monotonic() + AFTERWARDS_S
            wait_until(lambda: time.monotonic() > ends)
        finally:
            self._stopping = True
            thread.join(WAIT_S)

    @property
    def failed(self) -> list[int | str]:
        """The statuses other than 200, and the errors."""
        return [status for _, status in self.statuses if status != OK]

    async def _run(self) -> None:
        tokens = cycle(self.tokens)
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
        async with httpx.AsyncClient(base_url=self.address, timeout=WAIT_S, trust_env=False) as client:

            async def send_repeatedly() -> None:
                while not self._stopping:
                    sent = time.monotonic()
                    authorization = {"authorization": f"Bearer {next(tokens)}"}
                    try:
                        response = await client.post("/v1/chat/completions", json=body, headers=authorization)
                        status: int | str = response.status_code
                        if response.status_code != OK:
                            status = f"{status} {response.text[:200]}"
                    except httpx.HTTPError as error:
                        status = type(error).__name__
                    self.statuses.append((sent, status))

            await asyncio.gather(*(send_repeatedly() for _ in range(CLIENTS)))


@dataclass(slots=True)
class RotatingStack:
    """The stack, its secrets, and the addresses of its operations ports."""

    stack: Stack
    secrets: MountedSecret
    provider: ScriptedOpenAI
    tokens: list[str] = field(default_factory=list)
    auth_ports: list[int] = field(default_factory=list)
    auth_ops: list[str] = field(default_factory=list)

    def start(self) -> None:
        """Start the auth replicas and the proxy."""
        production = self.stack.production
        ports = [free_port() for _ in range(REPLICAS)]
        for port in ports:
            auth = production.start_auth(IBEX_AUTH_LISTEN=f"127.0.0.1:{port}")
            started = auth.wait_for_line(OPS, WAIT_S)
            self.auth_ops.append(started.partition(OPS)[2].partition('"')[0])
        self.auth_ports += ports
        production.environ["IBEX_AUTH_ADDRESS"] = ",".join(f"127.0.0.1:{port}" for port in ports)
        self.stack.address = production.start_proxy(WORKERS)

    @contextmanager
    def load(self, what: str) -> Iterator[Rotation]:
        """Rotate in the block, under load. No request may fail. Print the figures."""
        load = ChatLoad(self.stack.address, self.tokens)
        rotation = Rotation()
        with load.running():
            yield rotation
        figures = {"requests": len(load.statuses), "failed": len(load.failed), **rotation.seconds}
        print(f"\nrotated {what}: {json.dumps(figures)}")  # noqa: T201 - the figures are wanted
        assert not load.failed, load.failed[:3]

    def reloads(self, variable: str, outcome: str = "used") -> tuple[float, ...]:
        """Return how often the proxy's workers, and each auth replica, have reloaded a variable's file."""
        wanted = f'outcome="{outcome}",variable="{variable}"'
        addresses = (self.stack.address, *self.auth_ops)
        return tuple(self._value(address, f"_file_reloads_total{{{wanted}}}") for address in addresses)

    def rotate(self, values: Mapping[str, str], *, proxy: str | None = None, auth: str | None = None) -> float:
        """Update files and wait until all processes use them. Return the seconds that it took.

        ``proxy`` and ``auth`` are the variables under which each counts the reload; None if it does not read the file.
        """
        variables = {variable for variable in (proxy, auth) if variable is not None}
        before = {variable: self.reloads(variable) for variable in variables}
        began = self.secrets.update(values)

        def all_use_it() -> bool:
            now = {variable: self.reloads(variable) for variable in variables}
            by_proxy = proxy is None or now[proxy][0] >= before[proxy][0] + WORKERS
            by_auth = auth is None or all(new > old for new, old in zip(now[auth][1:], before[auth][1:], strict=True))
            return by_proxy and by_auth

        wait_until(all_use_it)
        return round(time.monotonic() - began, 2)

    def sql(self, statement: str) -> list[tuple[object, ...]]:
        """Run a statement as the superuser of PostgreSQL."""
        with psycopg.connect(self.stack.postgres.superuser_url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def reconnect(self, role: str) -> None:
        """End the idle connections of a role, and wait for a new one."""
        ((moment,),) = self.sql("SELECT now()")
        self.sql(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}' AND state = 'idle'"  # noqa: S608 - a constant
        )
        newer = f"FROM pg_stat_activity WHERE usename = '{role}' AND backend_start > '{moment}'"
        wait_until(lambda: self.sql(f"SELECT count(*) {newer}") != [(0,)])

    def ready(self) -> str:
        """Return the status that the proxy's readiness reports."""
        return str(httpx.get(f"{self.stack.address}/ready", trust_env=False).json()["status"])

    @staticmethod
    def _value(address: str, series: str) -> float:
        lines = httpx.get(f"{address}/metrics", trust_env=False).text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if series in line)


@dataclass(slots=True)
class Rotation:
    """The figures of one rotation: seconds from a change of files until the new value was in use."""

    seconds: dict[str, float] = field(default_factory=dict)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, which other processes or threads bring about without a notification."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not hold in time"
        time.sleep(0.02)


@contextmanager
def rotating_stack(
    values: Mapping[str, str], files: Mapping[str, str], environ: Mapping[str, str]
) -> Iterator[RotatingStack]:
    """Start everything with ``values`` as ``X_FILE`` variables, ``files`` beside them, and the settings ``environ``.

    The values may refer to the stack's servers as ``{postgres}`` (the parameter of the host), ``{redis}`` (the port)
    and ``{clickhouse}`` (the URL), the settings to the folder of the files as ``{folder}``.
    """
    with ExitStack() as opened:
        provider = opened.enter_context(ScriptedOpenAI.in_thread())
        stack = opened.enter_context(stack_without_proxy(provider.base_url))
        production = stack.production
        agent_id = production.ibex("agent", "list", "--json")[0]["id"]
        create = ("token", "create", "--agent", agent_id, "--json", "--name")
        tokens = [production.ibex(*create, str(number))["token"] for number in range(TOKENS)]
        production.stop_latest()  # it was started without files
        servers = {
            "postgres": stack.postgres.app_url.partition("?")[2],
            "redis": str(stack.redis.port),
            "clickhouse": stack.clickhouse.url,
        }
        filled = {name: value.format(**servers) for name, value in values.items()}
        secrets = MountedSecret(production.folder / "secrets", {**filled, **files})
        for name in (*values, "IBEX_AUTH_SERVICE_TOKEN"):
            production.environ.pop(name, None)
        production.environ |= {f"{name}_FILE": str(secrets.path(name)) for name in values}
        folder = str(production.folder / "secrets")
        production.environ |= {name: value.format(folder=folder) for name, value in environ.items()}
        _require_passwords(stack, PASSWORDS)
        rotating = RotatingStack(stack, secrets, provider, tokens)
        rotating.start()
        yield rotating


def _require_passwords(stack: Stack, passwords: Mapping[str, str]) -> None:
    """Set the passwords of IBEX's roles and require them, in PostgreSQL and in Redis."""
    with psycopg.connect(stack.postgres.superuser_url, autocommit=True) as connection:
        for role, password in passwords.items():
            connection.execute(f"ALTER ROLE {role} PASSWORD '{password}'".encode())
        row = connection.execute("SHOW hba_file").fetchone()
        assert row is not None
        rules = Path(str(row[0]))
        own = "".join(f"local all {role} scram-sha-256\n" for role in passwords)
        rules.write_text(own + rules.read_text())
        connection.execute("SELECT pg_reload_conf()")
    stack.redis.command("ACL", "SETUSER", "ibex", "on", f">{REDIS_PASSWORD}", "~ibex:*", "+@all")
