"""Requests leave no reference cycles for Python's garbage collector (ADR 0033).

A collection blocks the event loop for a millisecond per thousand objects and delays every request.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from harness.garbage import finding
from harness.loopback import REQUEST, Loopback
from harness.openai import ScriptedOpenAI
from harness.openai_wire import (
    Close,
    Pause,
    Silent,
    completion,
    error,
    html,
    length_too_long,
    open_stream,
    stream_events,
    text_deltas,
    text_stream,
)
from harness.servers import free_port
from ibex.domain.identity.model import PersonalAccessToken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from harness.openai_wire import Script

pytestmark = pytest.mark.integration

REQUESTS = 20


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    """One proxy for all tests."""
    folder: Path = tmp_path_factory.mktemp("journal")
    with ScriptedOpenAI.in_thread() as provider, Loopback.running(provider, folder) as running:
        yield running


def _chat(*more: str, body: bytes | None = None, stream: bool = False) -> Callable[[Loopback], bytes]:
    return lambda proxy: proxy.chat(body, *more, stream=stream)


def _of_nobody(proxy: Loopback) -> bytes:
    unknown = PersonalAccessToken.issue(uuid4(), bytes(32))
    return proxy.chat().replace(proxy.token.encode(), unknown.reveal().encode())


EVENT = stream_events(text_deltas("well"), usage=False)[0]
LARGE = json.dumps(REQUEST | {"user": "x" * 300_000}).encode()
KINDS: dict[str, tuple[int, Script | None, Callable[[Loopback], bytes]]] = {
    "buffered": (200, completion("well"), _chat()),
    "streamed": (200, text_stream("well", "then"), _chat(stream=True)),
    "large": (200, completion("well"), _chat(body=LARGE)),
    "of a session": (200, completion("well"), _chat("x-ibex-session-id: one", "x-ibex-session-end: true")),
    "no token": (401, None, lambda proxy: proxy.chat().replace(b"authorization", b"x-nothing")),
    "a token of nobody": (401, None, _of_nobody),
    "another's agent": (403, None, _chat(f"x-ibex-agent-id: {uuid4()}")),
    "not valid": (400, None, _chat(body=b'{"model":1}')),
    "no JSON": (400, None, _chat(body=b"{")),
    "refused by the provider": (400, error(400, "no"), _chat()),
    "no completion": (503, html(), _chat()),
    "cut in the stream": (200, (*open_stream(EVENT), Close()), _chat(stream=True)),
    "not found": (404, None, lambda proxy: proxy.chat().replace(b"/v1/chat", b"/v1/what")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_leaves_no_reference_cycle(proxy: Loopback, kind: str) -> None:
    """Many requests on one connection distinguish objects that each request leaves from objects that are left once."""
    status, script, request = KINDS[kind]

    def ask() -> None:
        if script is not None:
            proxy.provider.put(script)
        client.send(request(proxy))
        assert client.response().status == status

    with proxy.client() as client:
        ask()
        with finding(REQUESTS // 2) as found:
            for _ in range(REQUESTS):
                ask()

    assert found == {}


def _left_by(
    proxy: Loopback, status: int, request: Callable[[Loopback], bytes], script: Script | None = None
) -> dict[str, int]:
    """Return the objects that many requests leave, each on a separate connection."""

    def ask() -> None:
        if script is not None:
            proxy.provider.put(script)
        with proxy.client() as client:
            client.send(request(proxy))
            assert client.response().status == status

    ask()
    with finding(REQUESTS // 2) as found:
        for _ in range(REQUESTS):
            ask()
        proxy.wait_until_idle()
    return found


@pytest.mark.parametrize(
    ("limit", "status", "script", "stream"),
    [
        ("FIRST_BYTE", 504, (Silent(),), False),
        ("FIRST_BYTE", 504, (Silent(),), True),
        ("IDLE", 504, (*length_too_long("well")[:1], Silent()), False),
        ("IDLE", 200, (*open_stream(EVENT), Silent()), True),
    ],
    ids=["before its answer", "before its stream", "within its answer", "within its stream"],
)
def test_a_silent_provider_leaves_no_reference_cycle(
    tmp_path: Path, limit: str, status: int, script: Script, *, stream: bool
) -> None:
    """Each request ends by one of the two timeouts. The other timeout is much longer."""
    limits = {"IBEX_OPENAI_FIRST_BYTE_TIMEOUT": "60", "IBEX_OPENAI_IDLE_TIMEOUT": "60", "OPENAI_MAX_RETRIES": "0"}
    limits[f"IBEX_OPENAI_{limit}_TIMEOUT"] = "0.05"
    with ScriptedOpenAI.in_thread() as provider, Loopback.running(provider, tmp_path, **limits) as proxy:
        found = _left_by(proxy, status, _chat(stream=stream), script)

    assert found == {}


def test_an_unreachable_provider_leaves_no_reference_cycle(tmp_path: Path) -> None:
    """The address of the provider refuses connections."""
    nowhere = {"OPENAI_BASE_URL": f"http://127.0.0.1:{free_port()}/v1", "OPENAI_MAX_RETRIES": "0"}
    with ScriptedOpenAI.in_thread() as provider, Loopback.running(provider, tmp_path, **nowhere) as proxy:
        found = _left_by(proxy, 503, _chat())

    assert found == {}


def test_a_client_that_disconnects_during_a_stream_leaves_no_reference_cycle(proxy: Loopback) -> None:
    """This covers its request and its connection."""

    def begin_and_leave() -> None:
        proxy.provider.put((*open_stream(EVENT), Pause()))
        request_id = uuid4()
        with proxy.client() as client:
            client.send(proxy.chat(stream=True, request_id=request_id))
            client.read_head()
        proxy.record(request_id)

    begin_and_leave()
    with finding(REQUESTS // 2) as found:
        for _ in range(REQUESTS):
            begin_and_leave()
        proxy.wait_until_idle()

    assert found == {}
