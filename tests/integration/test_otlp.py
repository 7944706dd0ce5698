"""Traces of a proxy process at an OTLP receiver over HTTP, and failures of the receiver."""

from __future__ import annotations

import json
import signal
import time
from typing import TYPE_CHECKING
from uuid import uuid4

import httpx
import pytest

from harness.command import run_ibex
from harness.openai import ScriptedOpenAI
from harness.openai_wire import completion
from harness.otlp import OtlpReceiver, said
from harness.process import IbexProcess
from ibex.domain.identity.model import PersonalAccessToken

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from harness.clickhouse import ClickHouseDatabase
    from harness.postgres import PostgresDatabase

pytestmark = pytest.mark.integration

START_TIMEOUT_S = 30
TRACE, CLIENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
DIRECTIVE = "Canary-directive: be brief."
QUESTION = {"model": "gpt-4o", "messages": [{"role": "user", "content": "canary-prompt"}]}
HEADER = "canary-header"


class Proxy:
    """A proxy process and a token for it."""

    def __init__(self, process: IbexProcess, token: str) -> None:
        self.process = process
        self.token = token
        line = process.wait_for_line("listening on", START_TIMEOUT_S)
        self.address = json.loads(line)["event"].removeprefix("listening on ")

    def ask(self, headers: Mapping[str, str] | None = None) -> httpx.Response:
        """Request a completion."""
        with httpx.Client(base_url=self.address, trust_env=False, timeout=30) as http:
            authorized = {"Authorization": f"Bearer {self.token}"}
            return http.post("/v1/chat/completions", json=QUESTION, headers={**authorized, **(headers or {})})

    def counted(self, outcome: str) -> int:
        """Return the number of spans with this outcome."""
        with httpx.Client(base_url=self.address, trust_env=False) as http:
            lines = http.get("/metrics").text.splitlines()
        prefix = f'ibex_proxy_spans_total{{outcome="{outcome}"}} '
        return int(float(next(line for line in lines if line.startswith(prefix)).removeprefix(prefix)))


class Installation:
    """The settings of ``ibex serve``, and the processes that a test has started with them."""

    def __init__(self, environ: dict[str, str], folder: Path) -> None:
        self._environ = environ
        self._folder = folder
        names = ["--org", "acme", "--admin-email", "a@acme.example", "--agent", "one", "--directive", DIRECTIVE]
        bootstrap = run_ibex(folder / ".ibex", environ, "bootstrap", *names, "--json")
        assert bootstrap.returncode == 0, bootstrap.stderr
        self._token = str(json.loads(bootstrap.stdout)["agent_token"])
        self.processes: list[IbexProcess] = []

    def spawn(self, **environ: str) -> IbexProcess:
        """Start a proxy process with additional environment variables."""
        process = IbexProcess.spawn(["serve"], {**self._environ, **environ}, self._folder)
        self.processes.append(process)
        return process

    def serve(self, **environ: str) -> Proxy:
        """Start a proxy and return it once it listens."""
        return Proxy(self.spawn(**environ), self._token)


@pytest.fixture
def provider() -> Iterator[ScriptedOpenAI]:
    """A provider whose completions contain a canary."""
    with ScriptedOpenAI.in_thread() as scripted:
        scripted.put(*[completion("canary-completion")] * 20)
        yield scripted


@pytest.fixture
def installation(
    postgres: PostgresDatabase, clickhouse: ClickHouseDatabase, provider: ScriptedOpenAI, tmp_path: Path
) -> Iterator[Installation]:
    """An organization with its directive. Its processes are stopped at the end of the test."""
    environ = {
        "IBEX_PORT": "0",
        "IBEX_DATABASE_URL": postgres.app_url,
        "IBEX_AUTH_DATABASE_URL": postgres.auth_url,
        "IBEX_CLICKHOUSE_URL": clickhouse.url,
        "IBEX_TOKEN_PEPPERS": "k:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "IBEX_JOURNAL_DIR": str(tmp_path / "journal"),
        "OPENAI_API_KEY": "sk-canary-key",
        "OPENAI_BASE_URL": provider.base_url,
        "OTEL_BSP_SCHEDULE_DELAY": "50",
    }
    made = Installation(environ, tmp_path)
    yield made
    for process in made.processes:
        if process.process.poll() is None:
            process.stop(signal.SIGTERM)


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    """A receiver for spans."""
    with OtlpReceiver.running() as running:
        yield running


def test_the_receiver_gets_one_trace_for_a_request(
    installation: Installation, receiver: OtlpReceiver, provider: ScriptedOpenAI
) -> None:
    """The trace joins the client's and continues at the provider. It respects OTEL variables and contains no secret."""
    proxy = installation.serve(
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.address,
        OTEL_EXPORTER_OTLP_HEADERS=f"x-tenant={HEADER}",
        OTEL_EXPORTER_OTLP_COMPRESSION="gzip",
        OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=test",
    )
    answer = proxy.ask({"traceparent": f"00-{TRACE}-{CLIENT}-01", "x-ibex-session-id": "canary-session"})
    spans = {span.name: span for span in receiver.wait_for_spans(6)}

    assert (answer.status_code, answer.headers["x-trace-id"]) == (200, TRACE)
    own, asking = spans["POST /v1/chat/completions"], spans["chat gpt-4o"]
    assert set(spans) - {own.name, asking.name} == {"authenticate", "rate_limit", "directive", "inject"}
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    assert own.parent_span_id.hex() == CLIENT
    assert {span.parent_span_id for span in spans.values()} - {own.parent_span_id} == {own.span_id}
    assert provider.requests[0].header("traceparent") == f"00-{TRACE}-{asking.span_id.hex()}-01"
    assert (own.kind, asking.kind) == (own.SPAN_KIND_SERVER, own.SPAN_KIND_CLIENT)
    for span in spans.values():
        assert own.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= own.end_time_unix_nano
    assert said(own)["ibex.request.id"] == answer.headers["x-request-id"]
    assert said(asking)["gen_ai.provider.name"] == "openai"
    assert said(asking)["server.address"] == "127.0.0.1"
    assert said(asking)["gen_ai.response.finish_reasons"] == ["stop"]
    assert said(asking)["gen_ai.usage.input_tokens"] > 0

    resource = receiver.resources[0]
    assert (resource["service.name"], resource["deployment.environment.name"]) == ("ibex-proxy", "test")
    assert resource["service.instance.id"]
    assert receiver.paths[0] == "/v1/traces"
    assert receiver.headers[0]["x-tenant"] == HEADER
    for body in receiver.bodies:
        assert b"anary" not in body
        assert proxy.token[-40:].encode() not in body


def test_refused_requests_are_traced_and_pending_spans_are_sent_at_the_end(
    installation: Installation, receiver: OtlpReceiver
) -> None:
    """SIGTERM sends the pending spans. A request that the client does not sample has none.

    A request that is refused by its headers alone has a span without stages.
    """
    proxy = installation.serve(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.address, OTEL_BSP_SCHEDULE_DELAY="3600000")
    unknown = PersonalAccessToken.issue(uuid4(), b"canary".ljust(32)).reveal()
    by_head, by_auth = (proxy.ask({"Authorization": f"Bearer {token}"}) for token in ("canary", unknown))
    proxy.ask({"traceparent": f"00-{TRACE}-{CLIENT}-00"})
    assert proxy.process.stop(signal.SIGTERM) == 0

    spans = {(span.trace_id.hex(), bool(span.parent_span_id)): span for span in receiver.wait_for_spans(3)}
    for refused in (by_head, by_auth):
        own = spans.pop((refused.headers["x-trace-id"], False))
        assert (refused.status_code, said(own)["error.type"]) == (401, "INVALID_TOKEN")
    assert spans.keys() == {(by_auth.headers["x-trace-id"], True)}
    assert [span.name for span in spans.values()] == ["authenticate"]
    assert len(receiver.bodies) == 1


def test_an_unreachable_receiver_does_not_affect_requests(installation: Installation) -> None:
    """Requests succeed, the log has one line about it, and the process stops without a long delay."""
    proxy = installation.serve(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1", OTEL_EXPORTER_OTLP_TIMEOUT="3")
    assert [proxy.ask().status_code for _ in range(3)] == [200] * 3
    line = json.loads(proxy.process.wait_for_line("spans are not exported", START_TIMEOUT_S))
    assert proxy.ask().status_code == 200
    lost = proxy.counted("failed")
    began = time.monotonic()
    assert proxy.process.stop(signal.SIGTERM) == 0

    assert (line["level"], line["source"], line["reason"]) == ("warning", "ibex.spans", "ConnectionError")
    assert lost > 0
    assert sum("spans are not exported" in line for line in proxy.process.lines) == 1
    assert not any("127.0.0.1:1" in line or "HTTPConnectionPool" in line for line in proxy.process.lines)
    assert all(json.loads(line)["event"] for line in proxy.process.lines[:-1])
    assert time.monotonic() - began < 20


def test_a_receiver_that_refuses_spans_is_logged_with_its_status(
    installation: Installation, receiver: OtlpReceiver
) -> None:
    """This happens for a wrong header, whose value must not be logged."""
    receiver.status = 401
    proxy = installation.serve(
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.address, OTEL_EXPORTER_OTLP_HEADERS=f"authorization={HEADER}"
    )
    assert proxy.ask().status_code == 200
    receiver.wait_for_requests(1)

    line = json.loads(proxy.process.wait_for_line("spans are not exported", START_TIMEOUT_S))
    assert line["reason"] == "HTTP 401"
    assert proxy.process.stop(signal.SIGTERM) == 0
    assert not any(HEADER in line for line in proxy.process.lines)


def test_a_wrong_exporter_setting_is_one_warning(installation: Installation) -> None:
    """This covers the endpoint and an unsupported protocol. The proxy serves without spans."""
    wrong: list[dict[str, str]] = [
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
    ]
    for environ, process in [(environ, installation.spawn(**environ)) for environ in wrong]:
        address = json.loads(process.wait_for_line("listening on", START_TIMEOUT_S))["event"].split()[-1]
        assert httpx.get(f"{address}/health", trust_env=False).status_code == 200
        assert process.stop(signal.SIGTERM) == 0
        (line,) = [line for line in process.lines if list(environ)[-1] in line]
        assert json.loads(line)["level"] == "warning"
