"""Restarts, replaced workers and the end of a proxy, while clients go on sending requests (ADR 0060)."""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import pytest

from harness.nginx import nginx, nginx_program
from harness.raw_http import RawClient
from harness.rolling import DELAY_S, Rolling
from harness.whole_load import WholeLoad, chat_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.clickhouse import ClickHouseDatabase
    from harness.postgres import PostgresDatabase
    from harness.redis import RedisServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

WORKERS: Final = 2
CLIENTS: Final = 4
ASKED: Final = 20
READY: Final = b"GET /ready HTTP/1.1\r\nhost: ibex.test\r\n\r\n"
_LISTENS: Final = "0A"
_LOG: Final = logging.getLogger(__name__)
"""``pytest --log-cli-level=INFO`` shows how many requests failed and succeeded."""


@pytest.fixture(scope="module")
def shared(
    module_postgres: PostgresDatabase,
    module_clickhouse: ClickHouseDatabase,
    module_redis: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Rolling]:
    """The servers and auth, for all tests of the module."""
    folder = tmp_path_factory.mktemp("rolling")
    with Rolling.running(module_postgres, module_clickhouse, module_redis.url, folder) as running:
        yield running


@pytest.fixture
def rolling(shared: Rolling) -> Iterator[Rolling]:
    """No proxy at the beginning and at the end of a test."""
    yield shared
    for address in list(shared.proxies):
        shared.end(address)


@pytest.mark.skipif(nginx_program() is None, reason="nginx is not installed")
def test_no_request_fails_while_proxies_behind_nginx_restart(rolling: Rolling) -> None:
    """Each of two proxies with two workers is stopped and started again. nginx only learns of it by refusals."""
    addresses = [rolling.start(WORKERS) for _ in range(2)]
    with nginx(*addresses, buffering=False) as (front, _), WholeLoad([front], rolling.token, CLIENTS).running() as load:
        load.go_on(ASKED)
        for address in addresses:
            rolling.restart(address, WORKERS)
            load.go_on(ASKED)
    _LOG.info("%s", load)
    assert load.failures == []


def test_no_request_fails_while_sighup_replaces_the_workers(rolling: Rolling) -> None:
    """New processes take the place of both, one after the other. The supervisor and its socket stay."""
    address = rolling.start(WORKERS)
    before = rolling.production.workers()
    with WholeLoad([address], rolling.token, CLIENTS).running() as load:
        load.go_on(ASKED)
        rolling.replace_workers(address)
        load.go_on(ASKED)
    after = rolling.production.workers()
    _LOG.info("%s", load)
    assert load.failures == []
    assert (len(before | after), len(after)) == (2 * WORKERS, WORKERS)


def test_workers_stay_if_a_setting_is_wrong_at_sighup(rolling: Rolling) -> None:
    """The log says what is wrong. The workers are replaced once it is right again."""
    dotenv = rolling.production.folder / ".env"
    address = rolling.start(WORKERS)
    before = rolling.production.workers()
    dotenv.write_text("IBEX_LOG_LEVEL=loud\n")
    rolling.proxies[address].process.send_signal(signal.SIGHUP)
    rolling.proxies[address].wait_for_line("IBEX_LOG_LEVEL is 'loud'", 30)
    assert rolling.production.workers() == before

    dotenv.write_text("IBEX_LOG_LEVEL=warning\n")
    rolling.proxies[address].process.send_signal(signal.SIGHUP)
    _wait_for(lambda: len(rolling.production.workers() - before) == WORKERS == len(rolling.production.workers()))
    dotenv.unlink()
    assert _get_ready(address) == (200, "keep-alive")


@pytest.mark.parametrize("workers", [1, WORKERS])
def test_connections_are_accepted_during_the_drain_delay_and_refused_after_it(rolling: Rolling, workers: int) -> None:
    """The proxy is not ready at once. After the delay no process listens, though a stream still runs to its end."""
    address = rolling.start(workers, IBEX_DRAIN_DELAY=str(3 * DELAY_S))
    with RawClient.connected(address) as kept, RawClient.connected(address) as streaming:
        kept.send(READY)
        assert kept.response().status == 200
        rolling.proxies[address].process.send_signal(signal.SIGTERM)
        _wait_for(lambda: _get_ready(address)[0] == 503)
        assert _chat(address, rolling.token) == (200, "close")
        assert _listening(address)

        time.sleep(2 * DELAY_S)  # so that the stream outlasts the delay
        streaming.send(chat_request(rolling.token, "gpt-stream", stream=True))
        assert streaming.read_head()[0] == 200
        _wait_for(lambda: not _listening(address))
        with pytest.raises(ConnectionRefusedError):
            RawClient(address)
        assert kept.is_at_end()
        assert b"".join(streaming.chunks()).endswith(b"data: [DONE]\n\n")
    assert rolling.proxies[address].wait() == 0


def test_a_frozen_worker_does_not_keep_the_socket_open(rolling: Rolling) -> None:
    """New connections are refused once the delay is over, though the worker has not closed its descriptor."""
    address = rolling.start(WORKERS)
    frozen = min(rolling.production.workers())
    _wait_for(lambda: _handles(frozen, signal.SIGTERM))  # a worker listens a moment before it does
    os.kill(frozen, signal.SIGSTOP)
    try:
        rolling.proxies[address].process.send_signal(signal.SIGTERM)
        _wait_for(lambda: not _listening(address))
        with pytest.raises(ConnectionRefusedError):
            RawClient(address)
    finally:
        os.kill(frozen, signal.SIGCONT)
    assert rolling.proxies[address].wait() == 0


def test_workers_stay_if_a_new_one_does_not_start(rolling: Rolling) -> None:
    """The new worker's own error says what is wrong."""
    dotenv = rolling.production.folder / ".env"
    address = rolling.start(WORKERS)
    before = rolling.production.workers()
    dotenv.write_text("IBEX_REDIS_CREDENTIAL_PROVIDER=absent_module:absent\n")
    rolling.proxies[address].process.send_signal(signal.SIGHUP)
    rolling.proxies[address].wait_for_line("the workers that are not replaced stay", 60)
    dotenv.unlink()

    assert any("absent_module" in line for line in rolling.proxies[address].lines)
    assert rolling.production.workers() == before
    assert _chat(address, rolling.token) == (200, "keep-alive")


def test_a_kept_connection_is_told_to_close_during_the_drain_delay(rolling: Rolling) -> None:
    """The response to a request on it carries ``Connection: close``, so that the client does not use it again."""
    address = rolling.start(WORKERS)
    with RawClient.connected(address) as client:
        client.send(READY)
        assert client.response().status == 200
        rolling.proxies[address].process.send_signal(signal.SIGTERM)
        _wait_for(lambda: _get_ready(address)[0] == 503)
        client.send(chat_request(rolling.token, "gpt-instant"))
        seen = client.response()
        assert (seen.status, seen.headers["connection"]) == (200, "close")
        assert client.is_at_end()
    assert rolling.proxies[address].wait() == 0


@pytest.mark.parametrize("workers", [1, WORKERS])
def test_a_second_interrupt_cuts_the_end_short(rolling: Rolling, workers: int) -> None:
    """The stream gets its error event before it is over. A second SIGTERM within a second changes nothing."""
    address = rolling.start(workers, IBEX_DRAIN_DELAY="30", IBEX_SHUTDOWN_TIMEOUT="30")
    process = rolling.proxies[address].process
    with RawClient.connected(address) as streaming:
        streaming.send(chat_request(rolling.token, "gpt-begins", stream=True))
        assert streaming.read_head()[0] == 200
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        _wait_for(lambda: _get_ready(address)[0] == 503)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        body = b"".join(streaming.chunks())
    assert b"SERVICE_DEGRADED" in body
    assert rolling.proxies[address].wait() == 0
    assert time.monotonic() - began < 20


def _get_ready(address: str) -> tuple[int, str]:
    with RawClient.connected(address) as client:
        client.send(READY)
        seen = client.response()
        return seen.status, seen.headers.get("connection", "keep-alive")


def _chat(address: str, token: str) -> tuple[int, str]:
    with RawClient.connected(address) as client:
        client.send(chat_request(token, "gpt-instant"))
        seen = client.response()
        return seen.status, seen.headers.get("connection", "keep-alive")


def _listening(address: str) -> bool:
    """Return whether a socket of this machine listens on the address's port."""
    port = f":{urlsplit(address).port or 0:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(line.split()[1].endswith(port) and line.split()[3] == _LISTENS for line in lines)


def _handles(pid: int, number: signal.Signals) -> bool:
    """Return whether a process has a handler for a signal, which else ends it even while it is frozen."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return bool(int(lines["SigCgt"], 16) >> (number - 1) & 1)


def _wait_for(holds: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)  # another process sends no notification
