"""Auth serves health and metrics on the event loop of gRPC: no client may block it (ADR 0037)."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from harness.production import START_TIMEOUT_S, Production
from harness.raw_http import RawClient

if TYPE_CHECKING:
    from pathlib import Path

    from harness.clickhouse import ClickHouseDatabase
    from harness.postgres import PostgresDatabase

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

HEALTH = b"GET /health HTTP/1.1\r\nhost: ibex.test\r\n\r\n"
TRAILERS = b"GET /health HTTP/1.1\r\nhost: ibex.test\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: "
MOST = 64 << 20


def test_endless_trailers_on_the_operations_port_close_their_connection(
    module_postgres: PostgresDatabase, module_clickhouse: ClickHouseDatabase, redis_url: str, tmp_path: Path
) -> None:
    """Other clients get their responses without delay meanwhile."""
    production = Production.over(module_postgres, module_clickhouse, redis_url, tmp_path)
    try:
        auth = production.start_auth()
        address = json.loads(auth.wait_for_line("serving gRPC on port", START_TIMEOUT_S))["event"].rpartition(" ")[2]
        with ThreadPoolExecutor(4) as threads:
            attacks = [threads.submit(_attack, address) for _ in range(4)]
            slowest = max(_health(address) for _ in range(50))
            sent = [attack.result() for attack in attacks]
        assert max(sent) < MOST
        assert slowest < 1.0
        assert _health(address) < 1.0
    finally:
        production.stop()


def _health(address: str) -> float:
    began = time.monotonic()
    with RawClient.connected(address) as client:
        client.send(HEALTH)
        assert client.response().status == 200
    return time.monotonic() - began


def _attack(address: str) -> int:
    """Send a trailer without end, and return how many bytes went out before the connection was closed."""
    sent = 0
    with RawClient.connected(address) as client:
        client.send(TRAILERS)
        try:
            while sent < MOST:
                client.send(b"a" * 8_192)
                sent += 8_192
        except ConnectionError:
            pass
    return sent
