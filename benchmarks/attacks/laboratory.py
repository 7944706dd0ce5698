"""The installation under attack: real servers, auth, a proxy with two workers, organizations and tokens."""

from __future__ import annotations

import json
import re
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import psycopg
from benchmarks.attacks.attacking import Target
from benchmarks.attacks.catalogue import OF_60, OF_600, UNLIMITED, Attack
from benchmarks.attacks.tokens import id_of

from harness.servers import fast_provider
from harness.stack import stack_without_proxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.attacks.options import Options

    from harness.process import IbexProcess
    from harness.stack import Stack

WORKERS: Final = 2
_LIMITS: Final = (UNLIMITED, OF_600, OF_60)
_SPARE_S: Final = 6
_STOP_S: Final = 45.0


@dataclass(frozen=True, slots=True)
class Tenant:
    """An organization with an agent, a token that is bound to it, and one that is bound to no agent."""

    id: str
    token: str
    unbound_token: str


@dataclass(slots=True)
class Running:
    """The processes of one attack."""

    stack: Stack
    address: str
    ops: str
    grpc: int
    auth: int
    workers: list[int]
    tenant: Tenant
    notes: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        """The port of the proxy."""
        return urlsplit(self.address).port or 0


@dataclass(slots=True)
class Laboratory:
    """Servers that run all the time, and the processes that start again for each attack."""

    stack: Stack
    options: Options
    victim: Tenant
    unused: tuple[str, ...]
    tenants: dict[int, Tenant]

    def target(self, running: Running) -> Target:
        """Return the attacker's knowledge."""
        return Target(
            proxy=running.port,
            ops=urlsplit(running.ops).port or 0,
            grpc=running.grpc,
            token=running.tenant.token,
            unbound_token=running.tenant.unbound_token,
            victim_org=self.victim.id,
            known_token_id=id_of(self.victim.token),
        )

    @contextmanager
    def running(self, attack: Attack) -> Iterator[Running]:
        """Start the provider, auth and the proxy, and stop them afterwards."""
        production = self.stack.production
        with fast_provider(*attack.provider, "--processes", "1") as upstream:
            production.environ["OPENAI_BASE_URL"] = upstream
            production.python = _interpreter(production.folder, attack.descriptors)
            notes: list[str] = []
            try:
                auth = production.start_auth()
                grpc, ops = _listening(auth)
                address = production.start_proxy(WORKERS)
                production.python = sys.executable
                production.processes[-1].ignore_output()
                workers = self.stack.worker_pids()
                tenant = self.tenants[attack.rpm or UNLIMITED]
                yield Running(self.stack, address, ops, grpc, auth.process.pid, workers, tenant, notes)
            finally:
                production.python = sys.executable
                self._stop(notes)

    def _stop(self, notes: list[str]) -> None:
        production = self.stack.production
        while production.processes:
            process, began = production.processes[-1], time.monotonic()
            try:
                production.stop_latest(_STOP_S)
            except Exception as error:  # noqa: BLE001 - it is told, and the next attack has a process of its own
                process.process.kill()
                notes.append(f"a process did not stop cleanly: {type(error).__name__}")
            if time.monotonic() - began > _STOP_S / 2:
                notes.append(f"a process took {time.monotonic() - began:.0f} s to stop")


@contextmanager
def laboratory(options: Options) -> Iterator[Laboratory]:
    """Start the servers and create organizations and tokens; stop everything at the end."""
    source = {"PYTHONPATH": str(options.source / "src"), "IBEX_AUTH_TIMEOUT": str(options.auth_timeout)}
    with stack_without_proxy("http://127.0.0.1:9/v1", **source) as stack:
        victim = _tenant(stack, "victim", UNLIMITED)
        tenants = {limit: _tenant(stack, f"attacker-{limit}", limit) for limit in _LIMITS}
        share = max(1, round(options.rate * (options.before + options.seconds + _SPARE_S) / 4))
        unused = tuple(_token(stack, "victim", f"unused-{number}") for number in range(share))
        stack.production.stop_latest()
        yield Laboratory(stack, options, victim, unused, tenants)


def _tenant(stack: Stack, name: str, rpm: int) -> Tenant:
    ibex = stack.production.ibex
    org = str(ibex("org", "create", name, "--json")["id"])
    ibex("agent", "create", "one", "--org", name, "--json")
    with psycopg.connect(stack.postgres.superuser_url) as connection:
        connection.execute("UPDATE organizations SET rate_limit_rpm = %s WHERE id = %s", (rpm, org))
    return Tenant(org, _token(stack, name, "main"), _token(stack, name, "unbound", agent=None))


def _token(stack: Stack, org: str, name: str, agent: str | None = "one") -> str:
    options = () if agent is None else ("--agent", agent)
    return str(stack.production.ibex("token", "create", "--name", name, "--org", org, *options, "--json")["token"])


def _listening(auth: IbexProcess) -> tuple[int, str]:
    """Return the gRPC port and the URL of the HTTP port, as auth's first line says."""
    event = str(json.loads(auth.wait_for_line("serving gRPC on port", 10))["event"])
    return listening_in(event)


def listening_in(event: str) -> tuple[int, str]:
    """Return the gRPC port and the URL of the HTTP port from a line of auth's log."""
    port, ops = re.search(r"gRPC on port (\d+)", event), re.search(r"https?://[\w.:]+", event)
    if port is None or ops is None:
        raise ValueError(f"auth does not say where it listens: {event!r}")
    return int(port[1]), ops[0]


def _interpreter(folder: Path, descriptors: int | None) -> str:
    """Return a program that runs Python with a limit of open files, soft and hard; Python itself without a limit."""
    if descriptors is None:
        return sys.executable
    wrapper = folder / f"python-{descriptors}"
    wrapper.write_text(f'#!/bin/sh\nulimit -n {descriptors}\nexec "{sys.executable}" "$@"\n')
    wrapper.chmod(0o755)
    return str(wrapper)
