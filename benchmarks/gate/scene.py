"""The production wiring on loopback, with a provider that counts the requests it receives, and the requests sent."""

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
    """The running processes; ``sent`` holds the known ids of requests that were sent through IBEX."""

    stack: Stack
    upstream: str
    generator: Generator
    sent: set[UUID] = field(default_factory=set)
    _before: Counter[str] = field(default_factory=Counter)

    @property
    def base_url(self) -> str:
        """The base URL of IBEX for clients."""
        return f"{self.stack.address}/v1"

    @property
    def headers(self) -> dict[str, str]:
        """The headers of a client: its token."""
        return {"authorization": f"Bearer {self.stack.token}"}

    def numbered(self, count: int) -> tuple[list[UUID], list[bytes]]:
        """Return requests to IBEX with the client's own ids, and these ids, which count as sent."""
        ids = [uuid4() for _ in range(count)]
        self.sent |= set(ids)
        numbered = [{**self.headers, "x-request-id": str(number)} for number in ids]
        return ids, [chat_request(self.base_url, "gpt-paced", headers) for headers in numbered]

    def processes(self) -> dict[str, list[int]]:
        """Return the topmost processes of the gate, by group."""
        own, postgres = os.getpid(), self.stack.postgres.server.pid
        apart = [] if postgres is None or postgres in tree(own) else [postgres]  # the server daemonizes
        return {"gate": [own], "PostgreSQL": apart}

    def forget_received(self) -> None:
        """Restart the count of received requests: earlier ones were not sent through IBEX."""
        self._before = self._all_received()

    def received(self) -> Counter[str]:
        """Return the number of requests that the provider has received, by their first message."""
        return self._all_received() - self._before

    def _all_received(self) -> Counter[str]:
        parts = urlsplit(self.upstream)
        with urlopen(f"http://{parts.netloc}/received", timeout=10) as answer:
            return Counter(json.load(answer))


def others_in(use: CpuUse) -> str:
    """Describe the processor time of processes outside the gate; empty if it is negligible."""
    cores = (use.machine_s - sum(use.by_group.values())) / use.wall_s
    return f"; others used {cores:.1f} of {os.cpu_count()} cores" if cores >= _NOT_QUIET_CORES else ""


@contextmanager
def scene() -> Iterator[Scene]:
    """Start everything, and stop it at the end."""
    with (
        Generator() as generator,
        fast_provider(*_PACE, "--processes", "1") as upstream,
        production_stack(upstream, WORKERS) as stack,
    ):
        stack.production.processes[-1].ignore_output()
        yield Scene(stack, upstream, generator)
