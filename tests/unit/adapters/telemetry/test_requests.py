"""Tests that every request is counted once and has one access line, and that no secret is logged."""

from __future__ import annotations

import asyncio
import io
import json
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from harness.chat_scene import AGENT, DIRECTIVE_TEXT, ORG, TOKEN, event
from harness.exchanges import an_exchange
from harness.http_scene import (
    CHAT,
    HEADERS,
    REQUEST,
    STREAM_REQUEST,
    AsgiCall,
    HeldProvider,
    HttpScene,
    call,
    chat_scope,
    scripted_stream,
)
from harness.journal_entries import FullJournal
from harness.logs import logging_to, write_out
from harness.memory.clock import ManualClock
from ibex.adapters.telemetry.metrics import Metrics
from ibex.adapters.telemetry.requests import RequestTelemetry
from ibex.domain.errors import ErrorCode, InvalidTokenError
from ibex.domain.provider_errors import ProviderRefusal, ProviderRefusedError, ProviderUnavailableError
from ibex.domain.proxying.provider import ProviderBody
from ibex.domain.record.journal import JournalUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ibex.adapters.http_server.asgi import App
    from ibex.domain.errors import IbexError

CANARY = "canary-b7ad6b71"
SECRETS = (TOKEN.reveal()[-49:], CANARY, DIRECTIVE_TEXT)
PROMPT = REQUEST.replace(b"Hello", CANARY.encode())
COMPLETION = b'{"choices":[{"index":0,"finish_reason":"stop","message":{"content":"%s"}}]}' % CANARY.encode()


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Everything that is logged, at the lowest level."""
    stream = io.StringIO()
    with logging_to(stream, "debug"):
        yield stream


class Observed:
    """A scene whose application reports to the real telemetry."""

    def __init__(self, scene: HttpScene) -> None:
        self.metrics = Metrics(ManualClock(), FullJournal())
        telemetry = RequestTelemetry(self.metrics)
        self.app: App = scene.app(telemetry, [telemetry])

    def counted(self) -> dict[str, float]:
        """Return the number of requests by labels."""
        text = self.metrics.render()[0].decode()
        prefix = "ibex_proxy_request_duration_seconds_count"
        found = [line.removeprefix(prefix) for line in text.splitlines() if line.startswith(prefix)]
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in found}

    def text(self) -> str:
        """Return all metrics."""
        return self.metrics.render()[0].decode()


def access_lines(log: io.StringIO) -> list[dict[str, Any]]:
    """Return the access lines."""
    write_out()
    return [line for line in map(json.loads, log.getvalue().splitlines()) if line["event"] == "request"]


@pytest.mark.parametrize(
    ("method", "path", "route", "status"),
    [
        ("POST", CHAT, CHAT, 200),
        ("GET", "/v1/internal/auth-probe", "/v1/internal/auth-probe", 200),
        ("GET", "/health", "/health", 200),
        ("GET", "/nothing/at/all", "none", 404),
    ],
)
async def test_a_request_is_counted_once_and_has_one_access_line(
    log: io.StringIO, method: str, path: str, route: str, status: int
) -> None:
    """This applies to requests with and without an exchange."""
    observed = Observed(HttpScene())

    response = await call(observed.app, method, path, HEADERS, REQUEST if method == "POST" else b"")

    assert observed.counted() == {f'{{method="{method}",route="{route}",status="{status}"}}': 1.0}
    (line,) = access_lines(log)
    assert (line["method"], line["status"]) == (method, status)
    assert line["request_id"] == response.headers["x-request-id"]
    assert line["trace_id"] == response.headers["x-trace-id"]


async def test_the_access_line_of_a_proxied_request_is_complete(log: io.StringIO) -> None:
    """The HTTP server sets the route, and the exchange sets the other fields."""
    observed = Observed(HttpScene())

    await call(observed.app, "POST", f"/v1/orgs/{ORG}/chat/completions", HEADERS, REQUEST)

    (line,) = access_lines(log)
    assert line["route"] == "/v1/orgs/{org_id}/chat/completions"
    assert (line["org_id"], line["agent_id"]) == (str(ORG), str(AGENT))
    assert (line["model"], line["complete"]) == ("gpt-4o", True)
    assert 'ibex_proxy_rate_limit_decisions_total{decision="allowed"} 1.0' in observed.text()


async def test_a_probe_is_counted_without_an_exchange(log: io.StringIO) -> None:
    """The in-flight exchange provides the caller and the stages."""
    observed = Observed(HttpScene())

    await call(observed.app, "GET", "/v1/internal/auth-probe", HEADERS)

    (line,) = access_lines(log)
    assert (line["org_id"], line["agent_id"]) == (str(ORG), str(AGENT))
    assert 'ibex_proxy_stage_duration_seconds_count{stage="auth"} 1.0' in observed.text()
    assert 'ibex_proxy_rate_limit_decisions_total{decision="allowed"} 1.0' in observed.text()


async def test_a_failed_stream_is_counted_with_its_final_status(log: io.StringIO) -> None:
    """The client has received status 200 before the failure."""
    hel = event(b'{"choices":[{"index":0,"delta":{"content":"Hel"},"finish_reason":null}]}')
    observed = Observed(HttpScene(scripted_stream([hel], ProviderUnavailableError())))

    response = await call(observed.app, "POST", CHAT, HEADERS, STREAM_REQUEST)

    assert response.status == 200
    (line,) = access_lines(log)
    assert (line["status"], line["error_code"]) == (503, "PROVIDER_UNAVAILABLE")
    assert 'ibex_proxy_stream_duration_seconds_count{ending="failed"} 1.0' in observed.text()


@pytest.mark.parametrize(
    ("error", "provider_status"),
    [
        (ProviderUnavailableError(provider_status=401), 401),
        (ProviderRefusedError(ProviderRefusal.NOT_FOUND), None),
        (ProviderUnavailableError(), None),
    ],
)
@pytest.mark.parametrize("request_body", [REQUEST, STREAM_REQUEST])
async def test_the_access_line_has_the_status_of_a_provider_that_refuses_the_key(
    log: io.StringIO, error: IbexError, provider_status: int | None, request_body: bytes
) -> None:
    """An operator can distinguish it from an outage. The client does not receive that status."""
    observed = Observed(HttpScene(error))

    response = await call(observed.app, "POST", CHAT, HEADERS, request_body)

    (line,) = access_lines(log)
    assert line.get("provider_status") == provider_status
    assert "provider_status" not in response.error


async def test_a_disconnected_client_is_logged_as_499_and_counted(log: io.StringIO) -> None:
    """The metric has the phase in which the client disconnected."""
    scene = HttpScene()
    provider = HeldProvider(ProviderBody(COMPLETION))
    scene.chat.provider = provider  # type: ignore[assignment]  # another provider of the same port
    observed = Observed(scene)
    exchange = AsgiCall((REQUEST,))
    task = asyncio.create_task(exchange.run(observed.app, chat_scope()))
    await provider.asked.wait()

    exchange.leave.set()
    await task

    assert [line["status"] for line in access_lines(log)] == [499]
    assert 'ibex_proxy_client_disconnects_total{phase="buffered"} 1.0' in observed.text()


async def test_concurrent_requests_do_not_share_their_exchanges(log: io.StringIO) -> None:
    """Each line has the session of its request, even if both have the same request id."""
    observed = Observed(HttpScene())
    same: dict[str, str | None] = {"x-request-id": str(UUID(int=1))}

    await asyncio.gather(
        *(
            call(observed.app, "POST", CHAT, HEADERS | same | {"x-ibex-session-id": f"s{n}"}, REQUEST)
            for n in range(20)
        ),
        *(call(observed.app, "GET", "/health", same) for _ in range(20)),
    )

    sessions = [line.get("session_id") for line in access_lines(log)]
    assert len(sessions) == 40
    assert len({session for session in sessions if session}) == 20
    assert all(("session_id" in line) == (line["route"] == CHAT) for line in access_lines(log))


async def test_an_unavailable_journal_is_counted_and_logged(log: io.StringIO) -> None:
    """The warning has the id of the request."""
    scene = HttpScene()
    scene.chat.journal.failure = JournalUnavailableError("the disk is full")
    observed = Observed(scene)

    response = await call(observed.app, "POST", CHAT, HEADERS, REQUEST)

    assert response.status == 200
    assert 'ibex_proxy_journal_losses_total{sink="checkpoints"} 1.0' in observed.text()
    (warning,) = [line for line in map(json.loads, log.getvalue().splitlines()) if line["level"] == "warning"]
    assert warning["request_id"] == response.headers["x-request-id"]


async def test_refusals_of_a_lost_aggregate_are_counted(log: io.StringIO) -> None:
    """Every refusal in the aggregate counts as lost. One warning covers all of them."""
    scene = HttpScene()
    observed = Observed(scene)
    telemetry = RequestTelemetry(observed.metrics)
    many = an_exchange(error_code=ErrorCode.RATE_LIMITED, reached_provider=False, repeated=1_000)

    telemetry.aggregated(many, journaled=True)
    telemetry.aggregated(many, journaled=False)

    assert 'ibex_proxy_journal_losses_total{sink="traces"} 1000.0' in observed.text()
    (warning,) = [line for line in map(json.loads, log.getvalue().splitlines()) if line["level"] == "warning"]
    assert warning["repeated"] == 1_000


def scenes() -> dict[str, HttpScene]:
    """Return scenes in which a secret could be exposed, by name."""
    chunk = event(b'{"choices":[{"index":0,"delta":{"content":"%s"},"finish_reason":"stop"}]}' % CANARY.encode())
    unknown = HttpScene()
    unknown.chat.tokens.answer = InvalidTokenError()
    bug_in_auth = HttpScene()
    bug_in_auth.chat.tokens.answer = RuntimeError(TOKEN.reveal())
    bug_in_directives = HttpScene()
    bug_in_directives.chat.directives.answer = ValueError(DIRECTIVE_TEXT)
    return {
        "answered": HttpScene(ProviderBody(COMPLETION)),
        "streamed": HttpScene(scripted_stream([chunk], [event(b"[DONE]")])),
        "unknown token": unknown,
        "bug in authentication": bug_in_auth,
        "bug in directives": bug_in_directives,
        "bug in the provider": HttpScene(RuntimeError(CANARY, TOKEN.reveal())),
        "bug within a stream": HttpScene(scripted_stream([chunk], KeyError(CANARY))),
        "refused": HttpScene(ProviderRefusedError(ProviderRefusal.BAD_REQUEST, detail=f"Invalid value: {CANARY}")),
        "not a completion": HttpScene(ProviderBody(CANARY.encode())),
    }


BODIES = (
    PROMPT,
    PROMPT[:-1] + b',"stream":true}',
    PROMPT.replace(b'"user"', f'"{CANARY}"'.encode()),
    PROMPT.replace(b'"gpt-4o"', f'"{CANARY}"'.encode()),
    PROMPT.replace(b'"gpt-4o"', f'["{CANARY}"]'.encode()),
    PROMPT[:-1],
    CANARY.encode(),
)


@pytest.mark.parametrize("name", scenes())
@pytest.mark.parametrize("body", BODIES)
async def test_no_secret_is_in_logs_metrics_or_errors_of_ibex(log: io.StringIO, name: str, body: bytes) -> None:
    """The secrets are the token, the prompt, the completion and the directive."""
    scene = scenes()[name]
    observed = Observed(scene)
    wrong_headers: dict[str, str | None] = {"x-ibex-session-end": CANARY, "x-ibex-session-id": f"{CANARY} {CANARY}"}

    sound = await call(observed.app, "POST", CHAT, HEADERS, body)
    refused = await call(observed.app, "POST", f"/v1/orgs/{CANARY}/chat/completions", HEADERS, body)
    wrong = await call(observed.app, "POST", CHAT, HEADERS | wrong_headers, body)
    nowhere = await call(observed.app, "GET", f"/{CANARY}?{CANARY}", HEADERS | {"authorization": CANARY})

    for secret in SECRETS:
        assert secret not in log.getvalue()
        assert secret not in observed.text()
        for response in (refused, wrong, nowhere):
            assert secret.encode() not in response.body
    assert len(access_lines(log)) == 4
    if sound.status >= 400 and name != "refused":
        assert CANARY.encode() not in sound.body


def test_a_request_refused_by_its_head_is_counted_and_logged(log: io.StringIO) -> None:
    """It counts once, and the line has its ids and the error code. The request is no longer in flight."""
    metrics = Metrics(ManualClock(), FullJournal())
    telemetry = RequestTelemetry(metrics)
    request_id = UUID(int=7)

    telemetry.began(request_id, "ab" * 16)
    telemetry.refused("POST", CHAT, 401, ErrorCode.MISSING_TOKEN, 2_000_000)
    write_out()

    (line,) = [json.loads(line) for line in log.getvalue().splitlines()]
    assert (line["request_id"], line["trace_id"]) == (str(request_id), "ab" * 16)
    assert (line["status"], line["error_code"], line["route"]) == (401, "MISSING_TOKEN", CHAT)
    lines = metrics.render()[0].decode().splitlines()
    (counted,) = [line for line in lines if line.startswith("ibex_proxy_request_duration_seconds_count{")]
    (under_way,) = [line for line in lines if line.startswith("ibex_proxy_requests_under_way")]
    assert all(f'"{label}"' in counted for label in (CHAT, "POST", "401"))
    assert (float(counted.split()[-1]), float(under_way.split()[-1])) == (1.0, 0.0)
