"""Tests of ClickHouse addresses and of the client's thread."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, cast

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError

from ibex.adapters.clickhouse.connection import ClickHouseAddress, ClickHouseConnection, reason_of
from ibex.domain.record.sessions import SinkUnavailableError

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client


class RecordingClient:
    """A client that records how it is closed."""

    def __init__(self) -> None:
        self.closed: list[str] = []

    def close(self) -> None:
        """Record it."""
        self.closed.append("client")

    def close_connections(self) -> None:
        """Record it."""
        self.closed.append("connections")


def _as_client(client: RecordingClient) -> Client:
    return cast("Client", client)


@pytest.mark.parametrize(
    ("url", "interface", "dsn", "database"),
    [
        ("http://u:p@db:8124/traces", "http", "http://u:p@db:8124", "traces"),
        ("http://u:p@db", "http", "http://u:p@db:8123", "ibex"),
        ("http://u:p@db:8123/", "http", "http://u:p@db:8123", "ibex"),
        ("https://u:p@db/x%20y", "https", "https://u:p@db:8443", "x y"),
        ("https://db:9443?verify=false", "https", "https://db:9443?verify=false", "ibex"),
        ("clickhouse://db", "http", "clickhouse://db:8123", "ibex"),
        ("clickhouses://db/ibex", "https", "clickhouses://db:8443", "ibex"),
        ("http://[::1]:8123/a", "http", "http://[::1]:8123", "a"),
        ("chdb:///data/clickhouse", "chdb", "chdb:///data/clickhouse", "ibex"),
        ("chdb:///data?database=traces", "chdb", "chdb:///data", "traces"),
        ("chdb://", "chdb", "chdb://", "ibex"),
    ],
)
def test_an_address_is_parsed(url: str, interface: str, dsn: str, database: str) -> None:
    """The database is split off, the scheme decides about TLS, and the default port depends on the scheme."""
    assert ClickHouseAddress.parse(url) == ClickHouseAddress(
        dsn, interface, ClickHouseAddress.parse(url).host, database
    )


@pytest.mark.parametrize("url", ["", "db:8123", "tcp://canary@db", "http://", "http://u:canary@db:x", "http://[canary"])
def test_an_invalid_url_is_refused_without_being_quoted(url: str) -> None:
    """The error may be logged, but the URL contains a password."""
    with pytest.raises(ValueError, match="ClickHouse URL") as caught:
        ClickHouseAddress.parse(url)
    assert "canary" not in str(caught.value)


def test_an_address_shows_no_password() -> None:
    """Its repr can be logged."""
    assert "canary" not in repr(ClickHouseAddress.parse("http://u:canary@db/ibex"))


def test_a_reason_contains_only_the_kind_of_failure() -> None:
    """The reason has the code and the name of a server's error, but no part of its text."""
    refused = DatabaseError("Code: 60. Table canary (for url http://canary)", code=60, name="UNKNOWN_TABLE")
    assert reason_of(refused) == "UNKNOWN_TABLE, code 60"
    assert reason_of(DatabaseError("canary", code=60)) == "code 60"
    assert reason_of(OperationalError("canary refused")) == "connection failed or timed out"
    assert reason_of(ValueError("canary")) == "ValueError"


async def test_work_runs_in_one_dedicated_thread() -> None:
    """The client is created in that thread, once. The event loop's thread never runs the work."""
    made = []
    client = RecordingClient()

    def connect() -> Client:
        made.append(threading.get_ident())
        return _as_client(client)

    connection = ClickHouseConnection(connect)
    connection.open()
    threads = {await connection.run(lambda _: threading.get_ident()) for _ in range(3)}
    await connection.close()
    assert list(threads) == made
    assert threading.get_ident() not in threads
    assert client.closed == ["client", "connections"]


async def test_a_connection_is_retried_after_a_failure() -> None:
    """The next call connects once the server is up."""
    outcomes: list[RecordingClient | None] = [None, RecordingClient()]

    def connect() -> Client:
        outcome = outcomes.pop(0)
        if outcome is None:
            raise OperationalError("canary")
        return _as_client(outcome)

    connection = ClickHouseConnection(connect)
    connection.open()
    with pytest.raises(SinkUnavailableError, match="connection failed") as caught:
        await connection.run(lambda _: 1)
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert await connection.run(lambda _: 2) == 2
    await connection.close()


async def test_any_failure_is_an_unavailable_sink() -> None:
    """This includes errors that the library does not document. Later work is not affected."""
    connection = ClickHouseConnection(lambda: _as_client(RecordingClient()))
    connection.open()

    def fail(_: Client) -> None:
        raise TypeError("canary")

    with pytest.raises(SinkUnavailableError, match=r"\(TypeError\)"):
        await connection.run(fail)
    assert await connection.run(lambda _: "fine") == "fine"
    await connection.close()


async def test_work_that_exceeds_its_time_limit_times_out() -> None:
    """The caller gets an error at the limit. Queued work that timed out never runs."""
    release = threading.Event()
    ran: list[object] = []
    connection = ClickHouseConnection(lambda: _as_client(RecordingClient()), timeout_s=0.01)
    connection.open()
    for work in (lambda _: release.wait(), ran.append):
        with pytest.raises(SinkUnavailableError, match=r"within 0\.01 s"):
            await connection.run(work)
    release.set()
    await connection.close()
    assert ran == []


async def test_closing_waits_for_running_work() -> None:
    """Cancelling the caller does not stop a statement; closing waits for it."""
    begun, release = asyncio.Event(), threading.Event()
    loop, finished = asyncio.get_running_loop(), []
    client = RecordingClient()

    def work(_: Client) -> None:
        loop.call_soon_threadsafe(begun.set)
        release.wait()
        finished.append(list(client.closed))

    connection = ClickHouseConnection(lambda: _as_client(client))
    connection.open()
    waiting = asyncio.create_task(connection.run(work))
    await begun.wait()
    waiting.cancel()
    closing = asyncio.create_task(connection.close())
    await asyncio.sleep(0)
    release.set()
    await closing
    assert finished == [[]]
    assert client.closed == ["client", "connections"]


async def test_a_connection_that_is_not_open_is_unavailable() -> None:
    """This applies before opening and after closing. Closing is idempotent."""
    connection = ClickHouseConnection(lambda: _as_client(RecordingClient()))
    await connection.close()
    with pytest.raises(SinkUnavailableError, match="not open"):
        await connection.run(lambda _: 1)
    connection.open()
    await connection.close()
    await connection.close()
    with pytest.raises(SinkUnavailableError, match="not open"):
        await connection.run(lambda _: 1)


async def test_a_new_connection_replaces_the_former_one_once_the_server_accepts_it() -> None:
    """Until then, the former one is used: the server may not know the new password yet."""
    former, renewed = RecordingClient(), RecordingClient()
    accepted: list[RecordingClient] = []

    def reconnect() -> Client:
        if not accepted:
            raise OperationalError
        return _as_client(accepted[0])

    connection = ClickHouseConnection(lambda: _as_client(former))
    connection.open()
    assert await connection.run(lambda client: client) is _as_client(former)
    connection.reconnect_with(reconnect)
    assert await connection.run(lambda client: client) is _as_client(former)
    accepted.append(renewed)
    for _ in range(2):
        assert await connection.run(lambda client: client) is _as_client(renewed)
    assert former.closed == ["client", "connections"]
    assert renewed.closed == []
    await connection.close()
