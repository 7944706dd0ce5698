"""A connection to ClickHouse: to a server, or with ``chdb://`` to an engine inside this process.

clickhouse-connect is synchronous, so its client runs in a dedicated thread, which does one piece of work at a time.
"""

from __future__ import annotations

import asyncio
import logging
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

import clickhouse_connect
from clickhouse_connect.driver import options
from clickhouse_connect.driver.exceptions import OperationalError
from clickhouse_connect.driver.httputil import get_pool_manager_options
from urllib3 import PoolManager

from ibex.domain.record.sessions import SinkRefusedError, SinkUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from clickhouse_connect.driver.client import Client

T = TypeVar("T")

DATABASE: Final = "ibex"
TIMEOUT_S: Final = 10.0
CONNECT_TIMEOUT_S: Final = 3
_INTERFACES: Final = {"http": "http", "clickhouse": "http", "https": "https", "clickhouses": "https"}

# The library logs rows that it cannot encode, and the server's messages, which quote rows. IBEX receives all of them
# as exceptions.
logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)
# The first insert would import those of these libraries that are installed, to check whether it was given one of their
# tables. That costs a third of a second and 100 MB, and IBEX uses none of them.
for _library in ("np", "pd", "pd_time_test", "arrow", "pl"):
    vars(options).setdefault(_library, None)


@dataclass(frozen=True, slots=True)
class ClickHouseAddress:
    """The address of ClickHouse, and the name of IBEX's database. The repr shows no password."""

    dsn: str = field(repr=False)
    interface: str
    host: str
    database: str = DATABASE

    @classmethod
    def parse(cls, url: str) -> ClickHouseAddress:
        """Parse ``http[s]://user:password@host:port/database`` or ``chdb:///directory?database=name``.

        ``clickhouse[s]://`` means the same as ``http[s]://``. ``chdb://`` alone means an engine in memory. The default
        database is ``ibex``. Raises ``ValueError``, whose message contains no part of the URL.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise ValueError("the ClickHouse URL is malformed") from None
        if parts.scheme == "chdb":
            options = dict(parse_qsl(parts.query))
            database = options.pop("database", DATABASE)
            dsn = "?".join(filter(None, (url.partition("?")[0], urlencode(options))))
            return cls(dsn, "chdb", "", database)
        interface, host = _INTERFACES.get(parts.scheme), parts.hostname
        if interface is None or not host:
            raise ValueError("a ClickHouse URL must be http://host:port, https://host:port or chdb:///directory")
        if port is None:
            parts = parts._replace(netloc=f"{parts.netloc.rstrip(':')}:{8443 if interface == 'https' else 8123}")
        # Each statement names the database. The server would refuse a connection that names a database before
        # ``migrate`` has created it.
        database = unquote(parts.path.strip("/")) or DATABASE
        return cls(urlunsplit(parts._replace(path="")), interface, host, database)

    def connect(self, timeout_s: float = TIMEOUT_S) -> Client:
        """Connect and return a client. Raises what clickhouse-connect raises."""
        if self.interface == "chdb":
            return clickhouse_connect.get_client(dsn=self.dsn, tz_mode="aware")
        own_pool: dict[str, Any] = {"dedicated_pool": True}
        if is_loopback(self.host):  # an HTTP proxy from the environment must not be used for this machine
            own_pool = {"pool_mgr": PoolManager(**get_pool_manager_options())}
        return clickhouse_connect.get_client(
            dsn=self.dsn,
            interface=self.interface,
            tz_mode="aware",
            connect_timeout=CONNECT_TIMEOUT_S,
            send_receive_timeout=math.ceil(timeout_s),
            autogenerate_session_id=False,
            **own_pool,
        )


class ClickHouseConnection:
    """Runs functions on a client, in the client's thread. It connects on first use; the constructor does not."""

    def __init__(self, connect: Callable[[], Client], *, timeout_s: float = TIMEOUT_S) -> None:
        """Set the function that connects, and the time limit of one call of ``run``, in seconds."""
        self._connect = connect
        self._timeout_s = timeout_s
        self._client: Client | None = None
        self._is_outdated = False
        self._thread: ThreadPoolExecutor | None = None

    def open(self) -> None:
        """Start the thread. Idempotent."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="ibex-clickhouse")

    def reconnect_with(self, connect: Callable[[], Client]) -> None:
        """Use another function to connect, and reconnect at the next use.

        If that fails, the former client is used, and the use after that tries again.
        """
        self._connect, self._is_outdated = connect, True

    async def close(self) -> None:
        """Wait for running work, which has its own time limit, and disconnect. Idempotent."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.submit(self._disconnect)
            await asyncio.to_thread(thread.shutdown)

    async def run(self, work: Callable[[Client], T]) -> T:
        """Call ``work`` with the client and return its result.

        Raises ``SinkUnavailableError`` if it fails or takes too long, and ``SinkRefusedError`` if ``work`` raises that.
        """
        if self._thread is None:
            raise SinkUnavailableError("the ClickHouse connection is not open")
        running = asyncio.get_running_loop().run_in_executor(self._thread, self._run, work)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await running
        except TimeoutError:
            raise SinkUnavailableError(f"ClickHouse did not answer within {self._timeout_s:g} s") from None

    def _run(self, work: Callable[[Client], T]) -> T:
        try:
            return work(self._connected())
        except SinkRefusedError:
            raise
        except Exception as error:  # noqa: BLE001 - the library's codecs and transport raise many types
            raise SinkUnavailableError(f"ClickHouse is unavailable ({reason_of(error)})") from None

    def _connected(self) -> Client:
        former = self._client
        if former is not None and not self._is_outdated:
            return former
        connect = self._connect
        try:
            self._client = connect()
        except Exception:
            if former is None:
                raise
            return former
        self._is_outdated = self._connect is not connect
        if former is not None:
            disconnect(former)
        return self._client

    def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            disconnect(client)


def reason_of(error: Exception) -> str:
    """Return why a call failed. The error's own message is left out, as it may quote a row, a statement or a URL."""
    code, name = getattr(error, "code", None), getattr(error, "name", None)
    if code:
        return f"{name}, code {code}" if name else f"code {code}"
    return "connection failed or timed out" if isinstance(error, OperationalError) else type(error).__name__


def disconnect(client: Client) -> None:
    """Close a client and its connections."""
    client.close()
    client.close_connections()


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is that of this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
