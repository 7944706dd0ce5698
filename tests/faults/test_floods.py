"""One organization floods the proxy with requests that are refused (docs/adr/0041).

The clock is held, so that a whole flood is in one minute.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest

from harness.loopback import REQUEST, Loopback
from harness.openai import ScriptedOpenAI
from harness.openai_wire import completion

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ibex.domain.record.traces import Trace

pytestmark = pytest.mark.integration

LIMIT = 40
FLOOD = 1_000
SETTINGS = {"IBEX_RATE_LIMIT_DEFAULT_RPM": str(LIMIT), "IBEX_REFUSAL_DELAY": "0.0001"}
DELAY_S = 0.2
BODY = json.dumps(REQUEST).encode()
NOT_ROUTED = (404, "model_not_found")


@pytest.fixture
def flooded(proxy: Loopback) -> Iterator[Loopback]:
    """The proxy with a held clock and a known token and agent. The next test starts in another minute."""
    proxy.clock.by += timedelta(minutes=1)
    proxy.clock.held_at = proxy.clock.now() - proxy.clock.by
    proxy.assert_healthy()
    yield proxy
    proxy.clock.by += timedelta(minutes=1)


def send(proxy: Loopback, requests: list[bytes]) -> tuple[Counter[tuple[int, str]], set[UUID]]:
    """Send requests one after another on one connection. Return the outcomes and the request ids."""
    outcomes: Counter[tuple[int, str]] = Counter()
    ids = set()
    with proxy.client() as client:
        for request in requests:
            client.send(request)
            seen = client.response()
            outcomes[seen.outcome if seen.status != 200 else (200, "")] += 1
            ids.add(UUID(seen.request_id))
    return outcomes, ids


def rows_of(proxy: Loopback, ids: set[UUID]) -> list[Trace]:
    """Return the traces of these requests, once they represent all of them."""
    rows: list[Trace] = []

    def are_all() -> bool:
        rows[:] = [trace for trace in proxy.traces() if trace.request_id in ids]
        return sum(row.repeated for row in rows) >= len(ids)

    proxy.wait_for(are_all)
    return rows


FLOODS = ["random agents", "a foreign path", "a model that is not routed", "a body that is none"]


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_of_refused_requests_is_recorded_in_few_rows(flooded: Loopback, kind: str) -> None:
    """Refusals up to the limit have a row each.

    One row per second represents the others, and IBEX looks up no agent for them.
    """
    proxy, head = flooded, flooded.head
    length = f"content-length: {len(BODY)}"
    if kind == "random agents":
        requests = [head(length, f"x-ibex-agent-id: {uuid4()}", token=proxy.admin_token) + BODY for _ in range(FLOOD)]
        refusals = {(403, "AGENT_NOT_AUTHORIZED"): LIMIT, (429, "RATE_LIMITED"): FLOOD - LIMIT}
    elif kind == "a foreign path":
        requests = [head(length, path=f"/v1/orgs/{uuid4()}/chat/completions") + BODY for _ in range(FLOOD)]
        refusals = {(403, "INSUFFICIENT_PERMISSIONS"): FLOOD}
    else:
        counted = LIMIT - 2  # the others within the limit succeeded
        body = b"{}" if kind == "a body that is none" else BODY.replace(b"gpt-4o", b"made-up")
        requests = [head(f"content-length: {len(body)}") + body for _ in range(FLOOD)]
        code = (400, "VALIDATION_ERROR") if body == b"{}" else NOT_ROUTED
        refusals = {code: counted, (429, "RATE_LIMITED"): FLOOD - counted}
    looked_up = proxy.metric("ibex_proxy_cache_lookups_total", kind="agents", outcome="miss")

    outcomes, ids = send(proxy, requests)

    assert outcomes == refusals
    rows = rows_of(proxy, ids)
    single, together = [r for r in rows if r.repeated == 1], [r for r in rows if r.repeated > 1]
    assert sum(row.repeated for row in rows) == FLOOD
    assert LIMIT - 1 <= len(single) <= LIMIT + 2
    assert 1 <= len(together) <= 60
    assert {row.model for row in rows} == {""}
    known = proxy.metric("ibex_proxy_cache_lookups_total", kind="agents", outcome="miss") - looked_up
    assert known <= (LIMIT if kind == "random agents" else 0)


def test_a_flood_beyond_the_rate_limit_is_recorded_in_few_rows(flooded: Loopback) -> None:
    """Requests within the limit are served, and the others get 429."""
    proxy = flooded
    proxy.provider.put(*[completion("well")] * (LIMIT - 2))

    outcomes, ids = send(proxy, [proxy.chat() for _ in range(FLOOD)])

    served = LIMIT - 2
    assert outcomes == {(200, ""): served, (429, "RATE_LIMITED"): FLOOD - served}
    rows = rows_of(proxy, ids)
    assert sum(row.repeated for row in rows) == FLOOD
    assert sum(row.repeated == 1 for row in rows) <= served + LIMIT + 2
    assert all(row.error_code == "RATE_LIMITED" for row in rows if row.repeated > 1)


def test_refusals_beyond_the_limit_are_delayed(tmp_path: Path) -> None:
    """The delay limits the responses per second on one connection."""
    limits = {"IBEX_RATE_LIMIT_DEFAULT_RPM": "2", "IBEX_REFUSAL_DELAY": str(DELAY_S)}
    with ScriptedOpenAI.in_thread() as provider, Loopback.running(provider, tmp_path, **limits) as proxy:
        proxy.clock.held_at = proxy.clock.now()
        wrong = proxy.head("content-length: 2") + b"{}"
        send(proxy, [wrong] * 4)  # two are counted, two refused
        began = time.monotonic()
        outcomes, _ = send(proxy, [wrong] * 3)
        took_s = time.monotonic() - began

    assert outcomes == {(429, "RATE_LIMITED"): 3}
    assert took_s >= 3 * DELAY_S
