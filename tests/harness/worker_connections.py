"""One persistent connection to each worker of a proxy, so that a test can choose the worker that answers.

A trace names the process that made it, which shows the worker of each connection.
"""

from __future__ import annotations

import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import httpx

from ibex.adapters.clickhouse.connection import disconnect

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from harness.clickhouse import ClickHouseDatabase

WAIT_S = 30.0
"""How long is waited for what must happen; only a failing test waits so long."""
POLL_S = 0.05
AT_ONCE = 8
TRUSTS_NOBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For clients that speak no TLS: to read all the authorities of the machine takes each of them 20 ms or more."""
_BODY = {"model": "gpt-instant", "messages": [{"role": "user", "content": "Hi"}]}


@dataclass(frozen=True, slots=True)
class Answer:
    """One response: the version of its directive, None for no directive; times in monotonic seconds.

    ``limit`` is the organization's rate limit, None for unlimited.
    """

    status: int
    version: int | None
    limit: int | None
    sent: float
    answered: float


@dataclass(slots=True)
class WorkerConnection:
    """One connection; ``asked`` holds the ids of the requests that were sent on it."""

    client: httpx.Client
    asked: list[UUID] = field(default_factory=list)

    def ask(self, **headers: str) -> Answer:
        """Send one chat request, with these additional headers, and return its response."""
        self.asked.append(uuid4())
        own = {"X-Request-ID": str(self.asked[-1]), **headers}
        sent = time.monotonic()
        answer = self.client.post("/v1/chat/completions", json=_BODY, headers=own)
        answered = time.monotonic()
        receipt = answer.headers.get("x-ibex-directive")
        version = int(receipt.partition("@")[0]) if receipt else None
        limit = answer.headers.get("x-ratelimit-limit")
        return Answer(answer.status_code, version, int(limit) if limit else None, sent, answered)


@contextmanager
def connection_to_each_worker(
    address: str, token: str, clickhouse: ClickHouseDatabase, workers: int
) -> Iterator[list[WorkerConnection]]:
    """Connect until each worker has accepted a connection; all are closed afterwards."""
    found: dict[UUID, WorkerConnection] = {}
    deadline = time.monotonic() + WAIT_S
    with ExitStack() as stack:
        while len(found) < workers:
            assert time.monotonic() < deadline, f"only {len(found)} of {workers} workers take connections"
            tried = [WorkerConnection(stack.enter_context(_client(address, token))) for _ in range(AT_ONCE)]
            with ThreadPoolExecutor(AT_ONCE) as threads:
                assert {answer.status for answer in threads.map(WorkerConnection.ask, tried)} == {200}
            for connection in tried:
                (emitter,) = emitters_of(clickhouse, connection.asked)
                found.setdefault(emitter, connection)
        yield list(found.values())


def emitters_of(clickhouse: ClickHouseDatabase, request_ids: Sequence[UUID]) -> set[UUID]:
    """Wait until all of these requests have a trace, and return their emitters."""
    deadline = time.monotonic() + WAIT_S
    client = clickhouse.client()
    try:
        while True:
            found = client.query(
                "SELECT emitter_id FROM {name:Identifier}.llm_traces WHERE request_id IN {ids:Array(UUID)}",
                parameters={"name": clickhouse.name, "ids": list(request_ids)},
            ).result_rows
            if len(found) == len(request_ids):
                return {row[0] for row in found}
            assert time.monotonic() < deadline, f"{len(found)} of {len(request_ids)} traces"
            time.sleep(POLL_S)  # the database sends no notification
    finally:
        disconnect(client)


def _client(address: str, token: str) -> httpx.Client:
    kept = httpx.Limits(max_connections=1, keepalive_expiry=None)
    return httpx.Client(
        base_url=address,
        headers={"Authorization": f"Bearer {token}"},
        limits=kept,
        timeout=WAIT_S,
        trust_env=False,
        verify=TRUSTS_NOBODY,
    )
