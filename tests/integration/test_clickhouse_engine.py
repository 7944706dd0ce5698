"""The engine's process: its lifetime, and its HTTP protocol for clickhouse-connect."""

from __future__ import annotations

import gzip
import os
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import clickhouse_connect
import httpx
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError
from clickhouse_connect.driver.summary import QuerySummary

from harness.exchanges import an_exchange
from harness.readable import is_readable
from ibex.adapters.clickhouse.engine import ClickHouseEngine, EngineStartError
from ibex.adapters.clickhouse.engine_server import NICE
from ibex.adapters.clickhouse.migrate import migrate
from ibex.adapters.clickhouse.traces import ClickHouseTraces
from ibex.domain.record.sessions import SinkUnavailableError
from ibex.domain.record.traces import Trace, trace_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clickhouse_connect.driver.client import Client

    from harness.clickhouse import ClickHouseDatabase

pytestmark = pytest.mark.integration

ORG = UUID("0190c0de-0000-7000-8000-0000000000a1")


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory of ``shared_engine``."""
    return tmp_path_factory.mktemp("shared") / "clickhouse"


@pytest.fixture(scope="module")
def shared_engine(shared_folder: Path) -> Iterator[ClickHouseEngine]:
    """A running engine without a database, for tests that neither stop it nor create a database in it."""
    engine = ClickHouseEngine(shared_folder)
    engine.start()
    yield engine
    engine.stop()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[ClickHouseEngine]:
    """A running engine for one test."""
    engine = ClickHouseEngine(tmp_path / "clickhouse")
    engine.start()
    yield engine
    engine.stop()


@contextmanager
def connected(url: str, **arguments: Any) -> Iterator[Client]:
    """Yield a client as clickhouse-connect makes it, without IBEX."""
    parts = urlsplit(url)
    client = clickhouse_connect.get_client(
        host=parts.hostname,
        port=parts.port,
        username=parts.username,
        password=parts.password or "",
        dedicated_pool=True,
        **arguments,
    )
    try:
        yield client
    finally:
        client.close()


@pytest.fixture
def client(empty_clickhouse: ClickHouseDatabase) -> Iterator[Client]:
    """A client in its own database on the shared engine."""
    with connected(empty_clickhouse.url) as client:
        client.command(f"CREATE DATABASE {empty_clickhouse.name}")
        client.database = empty_clickhouse.name
        yield client


def new_traces(number: int) -> list[Trace]:
    """Return this many traces of ``ORG``."""
    trace = trace_of(an_exchange())
    assert trace is not None
    return [replace(trace, org_id=ORG, request_id=uuid4(), requested_at=datetime.now(UTC)) for _ in range(number)]


def _has_ended(pid: int, timeout_s: float) -> bool:
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return is_readable(process, timeout_s)
    finally:
        os.close(process)


# The protocol.


def test_the_engine_has_a_lower_priority_than_the_proxy(shared_engine: ClickHouseEngine) -> None:
    """The two share the CPUs, and the engine must not delay requests."""
    assert shared_engine.pid is not None
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    assert os.getpriority(os.PRIO_PROCESS, shared_engine.pid) == usual + NICE


def test_commands_return_their_results(client: Client) -> None:
    """The client distinguishes one value, a row, no rows and no result."""
    assert client.command("SELECT 42") == 42
    assert client.command("SELECT 'a', 'b'") == ["a", "b"]
    assert client.command("SELECT 1 WHERE 0") == ""
    assert isinstance(client.command("CREATE TABLE t (n UInt8) ENGINE = Memory"), QuerySummary)
    assert client.command("EXISTS TABLE t") == 1


def test_queries_bind_their_values(client: Client) -> None:
    """Values are in the URL, or in a form if that would be too long. Settings work as well."""
    for text in ("it's; --\t\n", "\u00e9" * 40_000):
        rows = client.query("SELECT {a:String}, {b:Array(UInt8)}", parameters={"a": text, "b": [1, 2]}).result_rows
        assert list(rows) == [(text, [1, 2])]
    assert client.command("SELECT getSetting('max_threads')", settings={"max_threads": 3}) == 3


def test_columns_are_known_without_rows(client: Client) -> None:
    """The client probes names and types with such a query."""
    result = client.query("SELECT toUInt8(1) AS a, now() AS b LIMIT 0")
    assert result.column_names == ("a", "b")
    assert client.query("SELECT toUInt8(1) AS a WHERE 0").result_rows == []


@pytest.mark.parametrize("compress", ["lz4", "zstd", "gzip", True, False])
def test_rows_survive_in_every_type_and_compression(empty_clickhouse: ClickHouseDatabase, compress: str | bool) -> None:  # noqa: FBT001 - a parameter
    """Rows are selected as they were inserted, with every compression."""
    types: dict[str, tuple[str, Any]] = {
        "a": ("UInt64", (1 << 64) - 1),
        "b": ("Int8", -128),
        "c": ("Float64", 0.1),
        "d": ("String", "\u4e2d\x00'\t"),
        "e": ("LowCardinality(String)", "low"),
        "f": ("Nullable(String)", None),
        "g": ("UUID", uuid4()),
        "h": ("Bool", True),
        "i": ("DateTime64(6, 'UTC')", datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)),
        "j": ("Date", date(2026, 1, 2)),
        "k": ("Decimal(18, 3)", Decimal("1.234")),
        "l": ("Array(Tuple(String, UInt8))", [("x", 1)]),
        "m": ("Map(String, UInt8)", {"k": 1}),
        "n": ("IPv4", IPv4Address("127.0.0.1")),
        "o": ("Enum8('one' = 1)", "one"),
    }
    number = 5_000
    with connected(empty_clickhouse.url, compress=compress, tz_mode="aware") as client:
        client.command(f"CREATE DATABASE {empty_clickhouse.name}")
        client.database = empty_clickhouse.name
        columns = ", ".join(f"{name} {kind}" for name, (kind, _) in types.items())
        client.command(f"CREATE TABLE t ({columns}) ENGINE = MergeTree ORDER BY a")
        row = tuple(value for _, value in types.values())
        summary = client.insert("t", [row] * number, column_names=list(types))
        assert summary.written_rows == number
        rows = client.query("SELECT * FROM t").result_rows
    assert len(rows) == number
    assert set(map(repr, rows)) == {repr(row)}


def test_results_have_the_requested_format(client: Client) -> None:
    """This covers raw queries and raw inserts, plain and compressed."""
    assert client.raw_query("SELECT 1 AS a", fmt="JSONEachRow") == b'{"a":1}\n'
    client.command("CREATE TABLE t (n UInt8, s String) ENGINE = MergeTree ORDER BY n")
    client.raw_insert("t", ["n", "s"], b"1,a\n2,b\n", fmt="CSV")
    client.raw_insert("t", ["n", "s"], gzip.compress(b"3,c\n"), fmt="CSV", compression="gzip")
    assert client.raw_query("SELECT * FROM t ORDER BY n", fmt="TSV") == b"1\ta\n2\tb\n3\tc\n"


def test_a_repeated_token_counts_once(client: Client) -> None:
    """The engine recognizes a repeated batch, and does not take a similar one for it."""
    client.command(
        "CREATE TABLE t (n UInt8) ENGINE = MergeTree ORDER BY n SETTINGS non_replicated_deduplication_window = 100"
    )
    for token in ("a", "a", "b", "a"):
        client.insert("t", [[1]], column_names=["n"], settings={"insert_deduplication_token": token})
    assert client.command("SELECT count() FROM t") == 2


def test_errors_have_their_code_and_name(client: Client) -> None:
    """They are those of a server. The connection works afterwards."""
    for statement, code, name in (
        ("SELECT * FROM no_such_table", 60, "UNKNOWN_TABLE"),
        ("SELEKT", 62, "SYNTAX_ERROR"),
        ("SELECT throwIf(1)", 395, "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO"),
    ):
        with pytest.raises(DatabaseError) as caught:
            client.query(statement)
        assert (caught.value.code, caught.value.name) == (code, name)
    with pytest.raises(DatabaseError) as caught:
        client.raw_insert("no_such_table", ["n"], b"1\n", fmt="CSV")
    assert caught.value.code == 60
    assert client.command("SELECT 1") == 1


def test_statements_run_concurrently(clickhouse: ClickHouseDatabase) -> None:
    """Twenty concurrent clients each get their own result."""

    def ask(number: int) -> object:
        with connected(clickhouse.url) as client:
            return client.command("SELECT {n:UInt32} + sum(number) * 0 FROM numbers(1000000)", parameters={"n": number})

    with ThreadPoolExecutor(20) as threads:
        assert list(threads.map(ask, range(20))) == list(range(20))


def test_statements_require_the_password(shared_engine: ClickHouseEngine) -> None:
    """The engine refuses clients without the password, and listens on loopback only."""
    parts = urlsplit(shared_engine.url)
    address = f"http://{parts.hostname}:{parts.port}/"
    assert parts.hostname == "127.0.0.1"
    with httpx.Client(trust_env=False) as http:
        assert http.get(f"{address}ping").text == "Ok.\n"
        assert http.post(address, content="SELECT 1").status_code == 401
        assert http.post(address, content="SELECT 1", auth=("ibex", "wrong")).status_code == 403
        assert http.post(address, content="SELECT 1", auth=(parts.username or "", parts.password or "")).text == "1\n"
    with pytest.raises(DatabaseError) as caught, connected(shared_engine.url.replace(parts.password or "", "wrong")):
        pass
    assert caught.value.code == 516


async def test_the_client_ignores_an_http_proxy_of_the_environment(
    clickhouse: ClickHouseDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client connects to the engine directly, even if HTTP_PROXY is set."""
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    traces = ClickHouseTraces(clickhouse.url)
    await traces.open()
    await traces.ping()
    await traces.close()


# The lifetime of the process.


def test_the_engine_restarts_with_its_data(engine: ClickHouseEngine) -> None:
    """The engine keeps its address and its rows. Starting a running engine does nothing."""
    url, pid = engine.url, engine.pid
    migrate(url)
    engine.start()
    assert engine.pid == pid
    with connected(url) as client:
        client.command("CREATE TABLE ibex.t (n UInt8) ENGINE = MergeTree ORDER BY n")
        client.insert("ibex.t", [[1]], column_names=["n"])
    engine.stop()
    assert engine.pid is None
    engine.start()
    assert engine.url == url
    with connected(url) as client:
        assert client.command("SELECT count() FROM ibex.t") == 1


def test_the_engine_stops_gracefully(tmp_path: Path) -> None:
    """SIGTERM stops it with exit code 0, even while a client is connected."""
    engine = ClickHouseEngine(tmp_path)
    engine.start()
    process = engine._process  # noqa: SLF001 - its exit code is not shown
    with connected(engine.url):
        engine.stop()
    assert process is not None
    assert process.returncode == 0


async def test_a_batch_survives_a_crash_of_the_engine_once(engine: ClickHouseEngine) -> None:
    """After SIGKILL the sink reports the outage. After a restart, the same batch with its token is stored once."""
    migrate(engine.url)
    batch = new_traces(1_000)
    traces = ClickHouseTraces(engine.url)
    await traces.open()
    await traces.write(batch, "a-batch")
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(SinkUnavailableError) as caught:
        await traces.write(batch, "a-batch")
    assert str(ORG) not in str(caught.value)
    engine.start()
    await traces.write(batch, "a-batch")
    await traces.write(new_traces(1), "another-batch")
    assert len(await traces.tail(ORG, 10_000)) == 1_001
    await traces.close()


async def test_an_engine_that_hangs_is_an_unavailable_sink(engine: ClickHouseEngine) -> None:
    """After SIGSTOP the sink times out, and recovers once the engine continues."""
    migrate(engine.url)
    traces = ClickHouseTraces(engine.url, timeout_s=1)
    await traces.open()
    await traces.ping()
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGSTOP)
    try:
        with pytest.raises(SinkUnavailableError):
            await traces.write(new_traces(1), "a-batch")
    finally:
        os.kill(engine.pid, signal.SIGCONT)
    batch = new_traces(3)
    await traces.write(batch, "another-batch")
    assert {t.request_id for t in batch} <= {t.request_id for t in await traces.tail(ORG, 10)}
    await traces.close()


async def test_a_sink_connects_to_a_server_that_starts_later(tmp_path: Path) -> None:
    """It is opened without a server. The first write after the server's start succeeds."""
    engine = ClickHouseEngine(tmp_path)
    engine.start()
    migrate(engine.url)
    engine.stop()
    traces = ClickHouseTraces(engine.url)
    await traces.open()
    with pytest.raises(SinkUnavailableError, match="connection failed"):
        await traces.write(new_traces(1), "a-batch")
    engine.start()
    await traces.write(new_traces(1), "a-batch")
    assert len(await traces.tail(ORG, 10)) == 1
    await traces.close()
    engine.stop()


async def test_a_missing_schema_is_reported(shared_engine: ClickHouseEngine) -> None:
    """The error has the code and the name, and nothing of the rows."""
    traces = ClickHouseTraces(shared_engine.url)
    await traces.open()
    with pytest.raises(SinkUnavailableError, match="UNKNOWN_DATABASE, code 81"):
        await traces.write(new_traces(1), "a-batch")
    await traces.close()


def test_two_engines_on_one_directory_are_refused(shared_engine: ClickHouseEngine, shared_folder: Path) -> None:
    """The error names the process of the first. The second leaves no process running, and the first continues."""
    second = ClickHouseEngine(shared_folder)
    with pytest.raises(
        EngineStartError, match=f"process {shared_engine.pid} already runs an engine on the data directory"
    ):
        second.start()
    assert second.pid is None
    with connected(shared_engine.url) as client:
        assert client.command("SELECT 1") == 1


def test_damaged_data_is_reported(tmp_path: Path) -> None:
    """An engine that cannot open its data reports that instead of hanging."""
    (tmp_path / "status").mkdir()  # where the engine keeps a file
    engine = ClickHouseEngine(tmp_path)
    try:
        with pytest.raises(EngineStartError, match="cannot open the data"):
            engine.start()
        assert engine.pid is None
    finally:
        engine.stop()


def test_the_engine_ends_with_its_parent(tmp_path: Path) -> None:
    """This holds even if the parent is killed with SIGKILL."""
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, "-m", "harness.engine_owner", str(tmp_path)], env=environ, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert not _has_ended(pid, 0)
        owner.kill()
    assert _has_ended(pid, 20)


def test_a_terminal_cannot_interrupt_the_engine(shared_engine: ClickHouseEngine) -> None:
    """The engine has a separate session: Ctrl-C signals its parent, which stops it."""
    assert shared_engine.pid is not None
    assert os.getsid(shared_engine.pid) == shared_engine.pid


def test_the_engines_password_is_not_exposed(shared_engine: ClickHouseEngine, shared_folder: Path) -> None:
    """Arguments, environment, files and the repr do not contain it. Each engine has a different password."""
    password = urlsplit(shared_engine.url).password or ""
    assert len(password) >= 32
    for name in ("cmdline", "environ"):
        assert password.encode() not in Path(f"/proc/{shared_engine.pid}/{name}").read_bytes()
    files = [path for path in shared_folder.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if password.encode() in path.read_bytes()]
    assert password not in repr(shared_engine)
    assert password not in ClickHouseEngine(shared_folder).__dict__.values()


def test_the_engines_files_are_private_to_its_owner(engine: ClickHouseEngine, tmp_path: Path) -> None:
    """No other user can read any file in the data directory."""
    migrate(engine.url)
    directory = tmp_path / "clickhouse"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "engine.log").stat().st_mode) == 0o600
    assert not [path for path in directory.rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o077]
