"""The ClickHouse engine as a child process: the parent's side (ADR 0008)."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from ibex.adapters.clickhouse.engine_server import HOST, USER, EngineStartError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ClickHouseEngine", "EngineStartError"]

LOG: Final = "engine.log"
"""The engine's own messages go to this file in its data directory."""
START_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 10.0


class ClickHouseEngine:
    """An engine on a data directory, on a loopback port, with a random password. The repr shows no password.

    The process is the leader of a new session, so that Ctrl-C in a terminal reaches only the parent. It ends when its
    parent ends. Port and password stay the same if it is stopped and started again.
    """

    def __init__(self, path: Path) -> None:
        """Set the data directory, which ``start`` creates if it does not exist. The constructor starts nothing."""
        self._path = path
        self._password = secrets.token_urlsafe(24)
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<ClickHouseEngine port={self._port} pid={self.pid}>"

    @property
    def url(self) -> str:
        """The URL ``http://user:password@host:port``. Raises ``RuntimeError`` before the first start."""
        if not self._port:
            raise RuntimeError("the engine has not been started")
        return f"http://{USER}:{self._password}@{HOST}:{self._port}"

    @property
    def pid(self) -> int | None:
        """The process id; None if there is no process."""
        return self._process.pid if self._process is not None else None

    @property
    def running(self) -> bool:
        """Whether the process runs."""
        process = self._process
        return process is not None and process.poll() is None

    def start(self) -> None:
        """Start the engine and wait until it accepts statements. Idempotent. Raises ``EngineStartError``."""
        with self._lock:
            if self.running:
                return
            self._end()
            self._spawn()
            try:
                self._port = self._port_when_ready()
            except BaseException:
                self._end()
                raise

    def stop(self) -> None:
        """Stop the engine gracefully, or kill it after ``STOP_TIMEOUT_S``. Idempotent."""
        with self._lock:
            self._end()

    def _spawn(self) -> None:
        try:
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
            log = os.open(self._path / LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        except OSError as error:
            raise EngineStartError(f"cannot use the data directory {self._path}: {error.strerror}") from None
        try:
            self._process = subprocess.Popen(  # noqa: S603 - a module of IBEX, no shell
                [
                    *(sys.executable, "-P", "-m", "ibex.adapters.clickhouse.engine_server"),
                    *("--path", str(self._path.absolute()), "--port", str(self._port)),
                ],
                env={**os.environ, "TZ": "UTC"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        finally:
            os.close(log)

    def _port_when_ready(self) -> int:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise RuntimeError("the engine process has no pipes")
        with contextlib.suppress(BrokenPipeError):  # the process has ended; reading its output below detects that
            process.stdin.write(self._password.encode() + b"\n")
            process.stdin.flush()
        line = _read_line(process.stdout.fileno(), START_TIMEOUT_S)
        if not line:
            raise EngineStartError(f"the engine ended before it was ready; see {self._path / LOG}")
        report: dict[str, Any] = json.loads(line)
        if "port" not in report:
            raise EngineStartError(report["error"])
        return int(report["port"])

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _read_line(descriptor: int, timeout_s: float) -> bytes:
    """Return the first line; empty if the stream ends first. Raises ``EngineStartError`` after the timeout."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    deadline = time.monotonic() + timeout_s
    line = b""
    while not line.endswith(b"\n"):
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1_000):
            raise EngineStartError(f"the engine was not ready within {timeout_s:g} s")
        chunk = os.read(descriptor, 4_096)
        if not chunk:
            return b""
        line += chunk
    return line
