"""The production wiring on loopback, a provider that counts what it receives, and what was sent to it."""

from __future__ import annotations

import json
import os
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit
from urllib.request import urlopen
from uuid import UUID, uuid4

from benchmarks.proxy.generator import Generator

from harness.cpu_time import tree
from harness.request_load import chat_request
from harness.servers import fast_provider
from harness.stack import production_stack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.cpu_time import CpuUse
    from harness.stack import Stack

WORKERS: Final = 2
EVENTS: Final = 25
FIRST_BYTE_S: Final = 0.25
_NOT_QUIET_CORES: Final = 0.2
_PACE: Final = ("--first-s", str(FIRST_BYTE_S), "--give-or-take-s", "0.1", "--events", str(EVENTS))


@dataclass(slots=True)
class Scene:
    """What runs; ``sent`` are the ids of requests that were sent through IBEX, as far as they are known."""

    stack: Stack
    upstream: str
    generator: Generator
    sent: set[UUID] = field(default_factory=set)
    _before: Counter[str] = field(default_factory=Counter)

    @property
    def base_url(self) -> str:
        """IBEX, as clients are told of it."""
        return f"{self.stack.address}/v1"

    @property
    def headers(self) -> dict[str, str]:
        """What a client sends besides: its token."""
        return {"authorization": f"Bearer {self.stack.token}"}

    def numbered(self, count: int) -> tuple[list[UUID], list[bytes]]:
        """Return requests to IBEX that a client has given ids of its own, and those ids, which count as sent."""
        ids = [uuid4() for _ in range(count)]
        self.sent |= set(ids)
        numbered = [{**self.headers, "x-request-id": str(number)} for number in ids]
        return ids, [chat_request(self.base_url, "gpt-paced", headers) for headers in numbered]

    def processes(self) -> dict[str, list[int]]:
        """Return what belongs to the gate, by the processes that others descend from."""
        own, postgres = os.getpid(), self.stack.postgres.server.pid
        apart = [] if postgres is None or postgres in tree(own) else [postgres]  # it daemonizes
        return {"gate": [own], "PostgreSQL": apart}

    def forget_received(self) -> None:
        """Count what the provider receives from now on: what came before was not sent through IBEX."""
        self._before = self._all_received()

    def received(self) -> Counter[str]:
        """Return how many requests the provider has received, by their first message."""
        return self._all_received() - self._before

    def _all_received(self) -> Counter[str]:
        parts = urlsplit(self.upstream)
        with urlopen(f"http://{parts.netloc}/received", timeout=10) as answer:
            return Counter(json.load(answer))


def others_in(use: CpuUse) -> str:
    """Say what others than the gate's own processes used of the machine meanwhile; nothing if it is not worth it."""
    cores = (use.machine_s - sum(use.by_group.values())) / use.wall_s
    return f"; others used {cores:.1f} of {os.cpu_count()} cores" if cores >= _NOT_QUIET_CORES else ""


@contextmanager
def scene() -> Iterator[Scene]:
    """Start everything, and stop it in the end."""
    with (
        Generator() as generator,
        fast_provider(*_PACE, "--processes", "1") as upstream,
        production_stack(upstream, WORKERS) as stack,
    ):
        stack.production.processes[-1].ignore_output()
        yield Scene(stack, upstream, generator)
