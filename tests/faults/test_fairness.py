"""One organization uses all the capacity that it can get, through the whole proxy. Another is served meanwhile."""

from __future__ import annotations

import json
import select
import time
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from harness.loopback import REQUEST, Loopback
from harness.openai import ScriptedOpenAI
from harness.openai_wire import completion, completion_body
from harness.raw_http import WAIT_S, RawClient
from harness.readable import is_readable
from ibex.adapters.http_server.client_connection import Limits

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

pytestmark = pytest.mark.integration

SLOTS = 200
LARGEST = 1 << 20
BUDGET = 4 * LARGEST
BODY = json.dumps(REQUEST | {"user": "x" * (LARGEST - 1_000)}).encode()
HELD = BUDGET * 3 // 4 // len(BODY)
"""How many such bodies one organization can have in flight."""
WITHIN_S = 1.0
BYTES_PER_S = 128 << 10


@pytest.fixture(scope="module")
def small_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    """A proxy with few slots and a small body budget. Its header timeout is long enough for a busy machine."""
    folder: Path = tmp_path_factory.mktemp("journal")
    settings = {
        "IBEX_MAX_CONCURRENCY": str(SLOTS),
        "IBEX_MAX_REQUEST_BODY_BYTES": str(LARGEST),
        "IBEX_BODY_BUDGET_BYTES": str(BUDGET),
        "IBEX_HEADER_TIMEOUT": "60",
    }
    with ScriptedOpenAI.in_thread() as provider, Loopback.running(provider, folder, **settings) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    """A proxy with short time limits for bodies."""
    limits = Limits(body_silence_s=30, body_s=WITHIN_S, body_bytes_per_s=BYTES_PER_S)
    folder: Path = tmp_path_factory.mktemp("impatient")
    with ScriptedOpenAI.in_thread() as provider, Loopback.running(provider, folder, limits) as proxy:
        yield proxy


@pytest.fixture
def proxy(small_proxy: Loopback) -> Iterator[Loopback]:
    """The same proxy for one test. Afterwards both organizations are served, and the first has its whole share."""
    small_proxy.provider.requests.clear()
    yield small_proxy
    small_proxy.assert_healthy()
    neighbour_is_served(small_proxy)
    finish(small_proxy, [hold_body(small_proxy) for _ in range(HELD)])


def neighbour_is_served(proxy: Loopback, body: bytes | None = None) -> None:
    """Assert that another organization gets its completion and a complete record."""
    seen = proxy.ask(completion("well"), body=body, token=proxy.neighbour_token)
    assert (seen.status, seen.body) == (200, completion_body("well"))
    assert proxy.record(seen.request_id).is_complete


def hold_body(proxy: Loopback) -> RawClient:
    """Send all of a large body except its last byte."""
    client = proxy.connect()
    client.send(proxy.head(f"content-length: {len(BODY)}") + BODY[:-1])
    return client


def finish(proxy: Loopback, clients: Sequence[RawClient]) -> None:
    """Send the last byte of each body, and assert that each request gets its response."""
    for client in clients:
        proxy.provider.put(completion("well"))
        client.send(BODY[-1:])
        assert client.response().status == 200
        client.close()


def readable(clients: Sequence[RawClient], least: int) -> list[RawClient]:
    """Return the clients that have a response, once there are at least ``least`` of them."""
    found: list[RawClient] = []
    deadline = time.monotonic() + WAIT_S
    poll = select.poll()
    by_number = {client.socket.fileno(): client for client in clients}
    for number in by_number:
        poll.register(number, select.POLLIN)
    while len(found) < least and time.monotonic() < deadline:
        for number, _ in poll.poll(1_000):
            poll.unregister(number)
            found.append(by_number[number])
    return found


def test_one_organization_gets_at_most_three_quarters_of_the_slots(proxy: Loopback) -> None:
    """IBEX refuses its other requests at once. All slots are free again afterwards."""
    ids = [uuid4() for _ in range(SLOTS)]
    clients = [proxy.connect() for _ in ids]
    for client, request_id in zip(clients, ids, strict=True):
        client.send(proxy.head("content-length: 100", request_id=request_id))
    refused = readable(clients, SLOTS // 4)
    for _ in range(3):
        neighbour_is_served(proxy)
    seen = [client.response() for client in refused]
    assert {one.outcome for one in seen} == {(503, "OVERLOADED")}
    assert {one.headers["retry-after"] for one in seen} == {"1"}
    assert len(refused) == SLOTS // 4
    for client in clients:
        client.close()
    left = [proxy.record(request_id) for request_id in ids]
    told = {one.request_id for one in seen}
    assert [exchange.status for exchange in left] == [503 if str(one) in told else 499 for one in ids]
    assert not any(exchange.reached_provider for exchange in left)


@pytest.mark.parametrize("framing", ["content-length: 100000", "transfer-encoding: chunked"])
def test_a_slow_body_gets_408(impatient: Loopback, framing: str) -> None:
    """The time limit depends on the declared length, or on the bytes received of a chunked body."""
    request_id = uuid4()
    chunked = framing.endswith("chunked")
    latest = WITHIN_S + (0 if chunked else 100_000 / BYTES_PER_S)
    began = time.monotonic()
    with impatient.client() as client:
        client.send(impatient.head(framing, request_id=request_id))
        while not is_readable(client.socket, 0.1):
            client.send(b"64\r\n" + b" " * 100 + b"\r\n" if chunked else b" " * 100)
            assert time.monotonic() - began < WAIT_S
        took = time.monotonic() - began
        assert client.response().outcome == (408, "REQUEST_TIMEOUT")
    assert took >= latest
    exchange = impatient.record(request_id)
    assert (exchange.status, exchange.error_code, exchange.reached_provider) == (408, "REQUEST_TIMEOUT", False)
    impatient.assert_healthy()


@pytest.mark.parametrize("end", ["complete", "leave"])
def test_one_organization_gets_at_most_three_quarters_of_the_body_budget(proxy: Loopback, end: str) -> None:
    """IBEX refuses its next body before reading it, and reads the body of another organization."""
    ids = [uuid4() for _ in range(HELD + 1)]
    clients = [proxy.connect() for _ in ids]
    for client, request_id in zip(clients, ids, strict=True):
        client.send(proxy.head(f"content-length: {len(BODY)}", request_id=request_id))
    (refused,) = readable(clients, 1)
    seen = refused.response()
    refused.close()
    assert seen.outcome == (503, "OVERLOADED")
    assert seen.headers["retry-after"] == "1"
    assert proxy.record(seen.request_id).status == 503
    held = [client for client in clients if client is not refused]
    for client in held:
        client.send(BODY[:-1])
    neighbour_is_served(proxy, BODY)
    if end == "complete":
        finish(proxy, held)
        return
    for client in held:
        client.close()
    assert [proxy.record(one).status for one in ids if str(one) != seen.request_id] == [499] * HELD
