"""`ibex serve` in the restricted environments of containers: it starts, answers, records, and `ibex doctor` agrees."""

from __future__ import annotations

import json
import os
import pwd
import stat
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx
import psycopg
import pytest

from harness.command import run_ibex
from harness.loopback import PEPPERS, REQUEST
from harness.process import IbexProcess
from harness.production import BOOTSTRAP, COMMAND_TIMEOUT_S, START_TIMEOUT_S, Production
from harness.relay import Relay
from harness.restrictions import GROUP, NAMELESS_UID, VOLUME, limits, needs_root, sandbox, terminate
from ibex.adapters.postgres.roles import APP_ROLE, AUTH_ROLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from harness.clickhouse import ClickHouseDatabase
    from harness.postgres import PostgresDatabase
    from harness.redis import RedisServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

KUBERNETES = {
    "IBEX_PORT": "tcp://10.0.0.1:8080",
    "IBEX_PORT_8080_TCP": "tcp://10.0.0.1:8080",
    "IBEX_PORT_8080_TCP_ADDR": "10.0.0.1",
    "IBEX_PORT_8080_TCP_PORT": "8080",
    "IBEX_PORT_8080_TCP_PROTO": "tcp",
    "IBEX_SERVICE_HOST": "10.0.0.1",
    "IBEX_SERVICE_PORT": "8080",
    "IBEX_SERVICE_PORT_HTTP": "8080",
    "IBEX_AUTH_PORT": "tcp://10.0.0.2:9091",
    "IBEX_AUTH_SERVICE_HOST": "10.0.0.2",
    "IBEX_AUTH_SERVICE_PORT_GRPC": "9091",
}
KIB = 1 << 10
NAMED_UID = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else os.geteuid()
DEV_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Installation:
    """The settings of `ibex serve`, without a journal, and the token of an agent."""

    environ: dict[str, str]
    token: str
    postgres: PostgresDatabase

    def recorded(self) -> int:
        """Return the number of recorded turns."""
        with psycopg.connect(self.postgres.superuser_url) as connection:
            ((count,),) = connection.execute("SELECT count(*) FROM checkpoints").fetchall()
        return int(count)


@pytest.fixture(scope="module")
def installation(
    module_postgres: PostgresDatabase, module_clickhouse: ClickHouseDatabase, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """Databases behind TCP, which every user can reach, and one agent."""
    with Relay.running(module_postgres.socket) as relay:

        def url(role: str) -> str:
            return f"postgresql://{role}@127.0.0.1:{relay.port}/{module_postgres.name}"

        environ = {
            "IBEX_PORT": "0",
            "IBEX_DATABASE_URL": url(APP_ROLE),
            "IBEX_AUTH_DATABASE_URL": url(AUTH_ROLE),
            "IBEX_CLICKHOUSE_URL": module_clickhouse.url,
            "IBEX_TOKEN_PEPPERS": PEPPERS,
            "IBEX_RATE_LIMIT_DEFAULT_RPM": "0",
            "PYTHONPATH": os.environ.get("IBEX_TEST_SOURCE", ""),
        }
        bootstrap = run_ibex(tmp_path_factory.mktemp("installation") / ".ibex", environ, *BOOTSTRAP, "--json")
        assert bootstrap.returncode == 0, bootstrap.stderr
        yield Installation(environ, json.loads(bootstrap.stdout)["agent_token"], module_postgres)


@dataclass(frozen=True, slots=True)
class Start:
    """A restricted start: how to make the volume and the prefix of the command, and further variables."""

    name: str
    restrict: Callable[[Path], Sequence[str]]
    environ: dict[str, str] = field(default_factory=dict)
    journal: str = f"{VOLUME}/journal"

    def __str__(self) -> str:
        return self.name


def _owned(volume: Path, mode: int, uid: int = 0, gid: int = 0) -> None:
    """Make the folder of the journal as a platform does: of another owner, with this mode."""
    journal = volume / "journal"
    journal.mkdir()
    if (uid, gid) != (os.geteuid(), os.getegid()):
        needs_root("make a directory of another owner")
        os.chown(journal, uid, gid)
    journal.chmod(mode)


def _own(volume: Path, uid: int) -> None:
    _owned(volume, 0o700, uid if os.geteuid() == 0 else os.geteuid(), os.getegid())


def _fs_group(volume: Path) -> Sequence[str]:
    _owned(volume, 0o2775, gid=GROUP)
    return sandbox(volume, uid=NAMELESS_UID, gid=GROUP)


def _world_writable(mode: int) -> Callable[[Path], Sequence[str]]:
    def restrict(volume: Path) -> Sequence[str]:
        _owned(volume, mode)
        return sandbox(volume, uid=NAMELESS_UID)

    return restrict


def _own_sticky(volume: Path) -> Sequence[str]:
    _owned(volume, 0o1777, os.geteuid(), os.getegid())
    return sandbox(volume)


def _nameless(volume: Path) -> Sequence[str]:
    _own(volume, NAMELESS_UID)
    return sandbox(volume, uid=NAMELESS_UID)


def _read_only(volume: Path) -> Sequence[str]:
    _own(volume, NAMELESS_UID)
    return sandbox(volume, uid=NAMELESS_UID, read_only=True)


def _little_shared_memory(volume: Path, uid: int = NAMELESS_UID) -> Sequence[str]:
    _own(volume, uid)
    return sandbox(volume, uid=uid, read_only=True, shm_bytes=64 * KIB)


def _limited(**values: int) -> Callable[..., Sequence[str]]:
    def restrict(volume: Path, uid: int = NAMELESS_UID) -> Sequence[str]:
        _own(volume, uid)
        return (*sandbox(volume, uid=uid), *limits(**values))

    return restrict


STARTS = [
    Start("fsGroup: root:group 2775, other uid", _fs_group),
    Start("root:root 1777, other uid", _world_writable(0o1777)),
    Start("root:root 0777, other uid", _world_writable(0o777)),
    Start("own directory with the sticky bit", _own_sticky),
    Start("a uid without a name, no HOME", _nameless),
    Start("read-only root, /tmp of 1 MiB", _read_only),
    Start("read-only root, /dev/shm of 64 KiB", _little_shared_memory),
    Start("ulimit -n 256", _limited(NOFILE=256)),
    Start("ulimit -n 1024", _limited(NOFILE=1024)),
    Start("ulimit -u 64", _limited(NPROC=64)),
    Start("ulimit -l 0", _limited(MEMLOCK=0)),
    Start("variables of the Services ibex and ibex-auth", _nameless, KUBERNETES | {"IBEX_HOST": "127.0.0.77"}),
    Start(
        "OTEL: grpc",
        _nameless,
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
    ),
    Start(
        "OTEL: values that the SDK rejects",
        _nameless,
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "soon",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "zip",
            "OTEL_BSP_MAX_QUEUE_SIZE": "many",
        },
    ),
    Start("OTEL: an endpoint without a scheme", _nameless, {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317"}),
]


@pytest.mark.parametrize("start", STARTS, ids=str)
def test_a_restricted_start_serves_and_records(installation: Installation, tmp_path: Path, start: Start) -> None:
    """A completion is answered and recorded, nothing outside the journal is written, and doctor finds no failure."""
    volume = tmp_path / "volume"
    volume.mkdir(mode=0o755)
    prefix = start.restrict(volume)
    environ = {**installation.environ, "IBEX_JOURNAL_DIR": start.journal, "HOME": "/nowhere", **start.environ}
    before = installation.recorded()
    process = IbexProcess.spawn(["serve"], environ, tmp_path, prefix=prefix)
    try:
        address = json.loads(process.wait_for_line("listening on", START_TIMEOUT_S))["event"].split()[-1]
        answer = httpx.post(
            f"{address}/v1/chat/completions",
            json=REQUEST,
            headers={"authorization": f"Bearer {installation.token}"},
            trust_env=False,
        )
        assert answer.status_code == 200, answer.text
        found = _doctor(prefix, {**environ, "IBEX_URL": address})
    finally:
        if process.process.poll() is None:
            assert terminate(process) == 0
    assert installation.recorded() == before + 1
    assert [finding for finding in found if finding["verdict"] == "failed"] == []
    journals = list(volume.rglob("journal.sqlite"))
    assert len(journals) == 1
    assert stat.S_IMODE(journals[0].stat().st_mode) == 0o600
    assert stat.S_IMODE(journals[0].parent.stat().st_mode) == 0o700
    assert {path.name for path in volume.iterdir()} == {"journal"}


def _doctor(prefix: Sequence[str], environ: dict[str, str]) -> list[dict[str, str]]:
    done = _run(prefix, environ, "doctor", "--json")
    assert done.stdout.startswith("{"), done.stderr
    found: list[dict[str, str]] = json.loads(done.stdout)["findings"]
    return found


def _run(prefix: Sequence[str], environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, sys.executable, "-m", "ibex.entrypoints.cli", *arguments],
        env={"PATH": os.environ["PATH"], **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )


def test_a_user_without_a_name_can_change_a_directive(installation: Installation, tmp_path: Path) -> None:
    """The author is then the user's number. Variables of the platform do not matter to this command either."""
    prefix = sandbox(tmp_path, uid=NAMELESS_UID, read_only=True)
    otel = {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}

    done = _run(prefix, installation.environ | KUBERNETES | otel, "directive", "set", "one", "Be kind.", "--json")

    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["author"] == f"uid {NAMELESS_UID}"


@pytest.mark.parametrize(
    ("mode", "told"),
    [(0o755, f"cannot be written to by user {NAMELESS_UID}"), (0o700, "cannot be used (Permission denied)")],
)
def test_a_journal_that_cannot_be_written_is_reported_alike(
    installation: Installation, tmp_path: Path, mode: int, told: str
) -> None:
    """A start and doctor say the same. The volume is also the working directory, which may not be readable."""
    _owned(tmp_path, 0o755)
    tmp_path.chmod(mode)
    needs_root("make a directory that the user cannot write to")
    prefix = sandbox(tmp_path, uid=NAMELESS_UID)
    environ = {**installation.environ, "IBEX_JOURNAL_DIR": f"{VOLUME}/journal"}

    started = _run(prefix, environ, "serve")
    found = {finding["name"]: finding for finding in _doctor(prefix, environ)}

    assert started.returncode == 1
    assert (found["journal"]["verdict"], found["journal"]["message"]) == (
        "failed",
        f"{VOLUME}/journal {told}",
    )
    assert started.stderr.splitlines()[-1] == (
        f"ibex: {found['journal']['message']}. Set IBEX_JOURNAL_DIR to a directory that IBEX can write to."
    )


@pytest.mark.parametrize("shm_bytes", [64 * KIB, 4 * KIB])
def test_several_workers_start_on_a_read_only_root_with_little_shared_memory(
    module_postgres: PostgresDatabase,
    module_clickhouse: ClickHouseDatabase,
    module_redis: RedisServer,
    tmp_path: Path,
    shm_bytes: int,
) -> None:
    """Their metrics are in anonymous memory, which /dev/shm does not limit. The second address shows both."""
    volume = tmp_path / "volume"
    volume.mkdir(mode=0o755)
    _own(volume, NAMELESS_UID)
    with Relay.running(module_postgres.socket) as relay:
        own = {"IBEX_DATABASE_URL": f"postgresql://{APP_ROLE}@127.0.0.1:{relay.port}/{module_postgres.name}"}
        stack = Production.over(module_postgres, module_clickhouse, module_redis.url, tmp_path, **own)
        try:
            stack.start_auth()
            environ = {**stack.environ, "IBEX_JOURNAL_DIR": f"{VOLUME}/journal", "IBEX_OPS_LISTEN": "127.0.0.1:0"}
            prefix = sandbox(volume, uid=NAMELESS_UID, read_only=True, shm_bytes=shm_bytes)
            process = IbexProcess.spawn(["serve", "--workers", "2"], environ, tmp_path, prefix=prefix)
            try:
                process.wait_for_lines("listening on", 2, START_TIMEOUT_S)
                line = process.wait_for_line("health and metrics on", START_TIMEOUT_S)
                ops = json.loads(line)["event"].split()[-1]
                shown = httpx.get(f"{ops}/metrics", trust_env=False).text
            finally:
                if process.process.poll() is None:
                    assert terminate(process) == 0
        finally:
            stack.stop()
    assert [f'ibex_proxy_worker_up{{worker="{number}"}} 1' in shown for number in range(2)] == [True, True]
    assert {path.name for path in (volume / "journal").iterdir()} == {"0", "1"}


@pytest.mark.parametrize(
    "restrict", [_little_shared_memory, _limited(NOFILE=256)], ids=["shared memory", "descriptors"]
)
def test_the_embedded_installation_starts_where_little_is_allowed(
    tmp_path: Path, restrict: Callable[..., Sequence[str]]
) -> None:
    """PostgreSQL shares memory in its data directory if /dev/shm is too small."""
    volume = tmp_path / "volume"
    volume.mkdir(mode=0o755)
    prefix = restrict(volume, NAMED_UID)
    process = IbexProcess.spawn(["--home", f"{VOLUME}/journal/home", "dev", "--port", "0"], {}, tmp_path, prefix=prefix)
    try:
        address = process.wait_for_line("http://127.0.0.1", DEV_TIMEOUT_S)
        base = f"http://127.0.0.1{address.partition('http://127.0.0.1')[2].split('/')[0].split()[0]}"
        assert httpx.get(f"{base}/ready", trust_env=False).json()["status"] == "ok"
    finally:
        if process.process.poll() is None:
            assert terminate(process) == 0


def test_the_embedded_postgres_needs_a_user_with_a_name(tmp_path: Path) -> None:
    """PostgreSQL looks it up. The message says what to do, without a traceback."""
    volume = tmp_path / "volume"
    volume.mkdir(mode=0o755)
    prefix = _nameless(volume)

    done = _run(prefix, {}, "--home", f"{VOLUME}/journal/home", "dev", "--port", "0")

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"ibex: PostgreSQL cannot be set up by user {NAMELESS_UID}, which the system has no name for (an entry in"
        " /etc/passwd). Run ibex dev as another user; ibex serve runs as any user"
    )
