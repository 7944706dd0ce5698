"""``ibex serve`` as a separate process: shutdown under load, many idle connections, no file descriptors."""

from __future__ import annotations

import json
import resource
import signal
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import psycopg
import pytest

from harness.command import run_ibex
from harness.loopback import KEY, PEPPERS, REQUEST, resident_kib
from harness.openai import ScriptedOpenAI
from harness.openai_wire import Gate, Pause, Send, chunked, completion, open_stream, stream_events, text_deltas
from harness.process import IbexProcess
from harness.production import BOOTSTRAP, START_TIMEOUT_S
from harness.raw_http import RawClient
from ibex.adapters.clickhouse.connection import disconnect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.clickhouse import ClickHouseDatabase
    from harness.openai_wire import Script
    from harness.postgres import PostgresDatabase

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

EACH = 50
IDLE = 1_000
IDLE_KIB = 20
GRACE_S = 3
EVENTS = stream_events(text_deltas("Hello"), usage=False)


class Served:
    """A running proxy and the scripted provider behind it."""

    def __init__(self, provider: ScriptedOpenAI, process: IbexProcess, token: str) -> None:
        said = process.wait_for_line("listening on", START_TIMEOUT_S)
        self.address = json.loads(said)["event"].removeprefix("listening on ")
        self.provider = provider
        self.process = process
        self._token = token

    def chat(self, *, stream: bool) -> bytes:
        """Return a chat request."""
        body = json.dumps(REQUEST | {"stream": stream})
        lines = [
            "POST /v1/chat/completions HTTP/1.1",
            "host: ibex.test",
            f"authorization: Bearer {self._token}",
            "content-type: application/json",
            f"content-length: {len(body)}",
        ]
        return "\r\n".join((*lines, "", body)).encode()

    def begin(self, script: Script, *, stream: bool) -> RawClient:
        """Send a request, and return its client once the provider has received it."""
        self.provider.put(script)
        number = len(self.provider.requests) + 1
        client = RawClient(self.address)
        client.send(self.chat(stream=stream))
        self.provider.see(self.provider.request(number))
        return client


@dataclass(frozen=True, slots=True)
class Installation:
    """The environment of a proxy, and the token of an agent."""

    environ: dict[str, str]
    token: str


@pytest.fixture(scope="module")
def installation(
    module_postgres: PostgresDatabase, module_clickhouse: ClickHouseDatabase, tmp_path_factory: pytest.TempPathFactory
) -> Installation:
    """One installation for all tests of the module."""
    folder = tmp_path_factory.mktemp("installation")
    environ = {
        "OPENAI_API_KEY": KEY,
        "IBEX_PORT": "0",
        "IBEX_DATABASE_URL": module_postgres.app_url,
        "IBEX_AUTH_DATABASE_URL": module_postgres.auth_url,
        "IBEX_CLICKHOUSE_URL": module_clickhouse.url,
        "IBEX_TOKEN_PEPPERS": PEPPERS,
        "IBEX_JOURNAL_DIR": str(folder / "journal"),
        "IBEX_SHUTDOWN_TIMEOUT": str(GRACE_S),
        "IBEX_RATE_LIMIT_DEFAULT_RPM": "0",
    }
    bootstrap = run_ibex(folder / ".ibex", environ, *BOOTSTRAP, "--json")
    assert bootstrap.returncode == 0, bootstrap.stderr
    return Installation(environ, json.loads(bootstrap.stdout)["agent_token"])


@pytest.fixture
def served(installation: Installation, tmp_path: Path) -> Iterator[Served]:
    """A proxy of the installation, with a scripted provider."""
    with ScriptedOpenAI.in_thread() as provider:
        environ = {**installation.environ, "OPENAI_BASE_URL": provider.base_url}
        process = IbexProcess.spawn(["serve"], environ, tmp_path)
        try:
            yield Served(provider, process, installation.token)
        finally:
            if process.process.poll() is None:
                process.stop(signal.SIGTERM)


def test_sigterm_under_load_answers_and_records_every_request(
    served: Served, module_postgres: PostgresDatabase, module_clickhouse: ClickHouseDatabase
) -> None:
    """Requests that can finish do so. At the deadline the others get an error event or an error envelope.

    IBEX accepts no new requests and exits with code 0.
    """
    finish, never = Gate(), Gate()
    buffered = [served.begin(_buffered(finish if n % 2 else never), stream=False) for n in range(EACH)]
    streams = [served.begin(_streamed(finish if n % 2 else never), stream=True) for n in range(EACH)]
    heads = [client.read_head() for client in streams]

    served.process.process.send_signal(signal.SIGTERM)
    _wait_until_refused(served.address)
    finish.open()

    whole = [client.response() for client in buffered]
    bodies = [b"".join(client.chunks()) for client in streams]
    assert served.process.wait() == 0
    assert {status for status, _ in heads} == {200}
    assert [seen.status for seen in whole] == [503, 200] * (EACH // 2)
    assert {seen.error["code"] for seen in whole[::2]} == {"SERVICE_DEGRADED"}
    assert bodies[1::2] == [b"".join(EVENTS)] * (EACH // 2)
    for body in bodies[::2]:
        assert body.startswith(EVENTS[0])
        last = json.loads(body.removeprefix(EVENTS[0]).removeprefix(b"data: "))
        assert last["error"]["code"] == "SERVICE_DEGRADED"

    ids = {UUID(seen.request_id) for seen in whole} | {UUID(headers["x-request-id"]) for _, headers in heads}
    with psycopg.connect(module_postgres.superuser_url) as connection:
        stored = connection.execute("SELECT request_id, is_complete FROM checkpoints").fetchall()
    checkpoints = [(request_id, done) for request_id, done in stored if request_id in ids]
    with _traces(module_clickhouse) as traces:
        assert sorted(trace for trace in traces if trace[0] in ids) == sorted(
            (request_id, 200 if done else 503) for request_id, done in checkpoints
        )
    assert {request_id for request_id, _ in checkpoints} == ids
    assert (len(checkpoints), sum(done for _, done in checkpoints)) == (2 * EACH, EACH)
    assert all(not client.read(1) for client in (*buffered, *streams))
    for client in (*buffered, *streams):
        client.close()


def test_a_thousand_idle_connections_use_little_memory(served: Served) -> None:
    """They do not count as load, and each can send a request."""
    warm = [served.begin(completion("first"), stream=False)]
    assert warm[0].response().status == 200
    warm += [_idle(served) for _ in range(IDLE // 10)]
    before = resident_kib(served.process.process.pid)
    idle = [_idle(served) for _ in range(IDLE)]
    after = resident_kib(served.process.process.pid)
    assert (after - before) / IDLE < IDLE_KIB
    for client in idle[:: IDLE // 10]:
        served.provider.put(completion("well"))
        client.send(served.chat(stream=False))
        assert client.response().status == 200
    for client in (*warm, *idle):
        client.close()
    with RawClient.connected(served.address) as client:
        served.provider.put(completion("well"))
        client.send(served.chat(stream=False))
        assert client.response().status == 200


def test_a_process_without_file_descriptors_returns_503(served: Served) -> None:
    """The response has ``Retry-After``, and the log has one line. IBEX serves requests again afterwards."""
    with RawClient.connected(served.address) as client:
        client.send(b"GET /health HTTP/1.1\r\nhost: ibex.test\r\n\r\n")
        assert client.response().status == 200
        pid = served.process.process.pid
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        taken = {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}
        lowest = min(set(range(len(taken) + 1)) - taken)
        assert before[0] == before[1]  # IBEX has raised its soft limit
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest, before[1]))
        for _ in range(5):
            client.send(served.chat(stream=False))
            seen = client.response()
            assert seen.outcome == (503, "OVERLOADED")
            assert int(seen.headers["retry-after"]) >= 1
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        assert len([line for line in served.process.lines if "No file descriptor is left" in line]) == 1
        served.provider.put(completion("well"))
        client.send(served.chat(stream=False))
        assert client.response().status == 200
    assert len(served.provider.requests) == 1


def test_a_worker_without_auth_and_redis_is_replaced_at_sighup(installation: Installation, tmp_path: Path) -> None:
    """A supervisor with one worker needs no more servers than a process that serves by itself."""
    with ScriptedOpenAI.in_thread() as provider:
        environ = {**installation.environ, "OPENAI_BASE_URL": provider.base_url}
        served = Served(provider, IbexProcess.spawn(["serve", "--workers", "1"], environ, tmp_path), installation.token)
        try:
            served.process.process.send_signal(signal.SIGHUP)
            served.process.wait_for_line("all workers are replaced", START_TIMEOUT_S)
            provider.put(completion("well"))
            with RawClient.connected(served.address) as client:
                client.send(served.chat(stream=False))
                assert client.response().status == 200
        finally:
            assert served.process.stop(signal.SIGTERM) == 0, served.process.lines


def _idle(served: Served) -> RawClient:
    """Return an idle connection that has already served a request."""
    client = RawClient(served.address)
    client.send(b"GET /health HTTP/1.1\r\nhost: ibex.test\r\n\r\n")
    assert client.response().status == 200
    return client


def _buffered(gate: Gate) -> Script:
    return (Pause(gate), *completion("Hello"))


def _streamed(gate: Gate) -> Script:
    return (*open_stream(EVENTS[0]), Pause(gate), *(Send(chunked(event)) for event in (*EVENTS[1:], b"")))


def _wait_until_refused(address: str) -> None:
    with suppress(ConnectionError):
        while True:
            with RawClient.connected(address) as client:
                client.send(b"GET /ready HTTP/1.1\r\nhost: ibex.test\r\n\r\n")
                client.read_line()


@contextmanager
def _traces(clickhouse: ClickHouseDatabase) -> Iterator[list[tuple[UUID, int]]]:
    client = clickhouse.client()
    query = "SELECT request_id, status_code FROM {database:Identifier}.llm_traces"
    try:
        yield [(row[0], row[1]) for row in client.query(query, parameters={"database": clickhouse.name}).result_rows]
    finally:
        disconnect(client)
