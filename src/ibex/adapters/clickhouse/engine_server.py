"""The ClickHouse engine as a process of its own (ADR 0008): ``python -m ibex.adapters.clickhouse.engine_server``.

Its parent is ``engine.ClickHouseEngine``, and this is what they agreed on. The first line on stdin is the password. The
first line on stdout is a JSON object: ``port``, once requests can come, or ``error``, before it exits with 1. It ends
in good order on SIGTERM, and by itself once stdin ends, that is once its parent is no more.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import json
import os
import signal
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

import uvicorn

if TYPE_CHECKING:
    from collections.abc import Iterator

USER: Final = "ibex"
HOST: Final = "127.0.0.1"
STATEMENTS_AT_ONCE: Final = 8
NICE: Final = 5
"""The niceness of the engine. Clients wait for requests; nobody waits for traces."""
GRACE_S: Final = 5
_IDLE_CONNECTION_S: Final = 600
_LOCK: Final = "ibex-engine.lock"


class EngineStartError(Exception):
    """The engine cannot be started; the message is for who started it."""


class _Server(uvicorn.Server):
    """Says when it is ready, and leaves signals to the loop."""

    def __init__(self, config: uvicorn.Config, port: int) -> None:
        super().__init__(config)
        self._port = port

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        _say({"port": self._port})

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        threading.Thread(target=_stop_without_parent, args=(loop, self), daemon=True).start()
        yield

    def stop(self) -> None:
        self.should_exit = True


def main(arguments: list[str]) -> int:
    """Run until told to end; return the exit code."""
    parser = argparse.ArgumentParser(prog="ibex-clickhouse-engine")
    parser.add_argument("--path", type=Path, required=True, help="the data directory; created if it is not there")
    parser.add_argument("--port", type=int, default=0, help="0 takes any free one")
    chosen = parser.parse_args(arguments)
    os.umask(0o077)
    os.nice(NICE)
    try:
        password = _read_password()
        with _claimed(chosen.path), _listening(chosen.port) as listener:
            return _serve(chosen.path, listener, password)
    except EngineStartError as error:
        _say({"error": str(error)})
        return 1


def _serve(path: Path, listener: socket.socket, password: str) -> int:
    # Only now: loading the engine takes longer than finding out that it must not be started.
    from ibex.adapters.clickhouse.engine_http import EngineHttp  # noqa: PLC0415
    from ibex.adapters.clickhouse.engine_statements import Engine, EngineError  # noqa: PLC0415

    try:
        os.chdir(path)  # the engine parses its argument like a URL: a `?` in the path would begin options
        engine = Engine(".")
    except EngineError as error:
        raise EngineStartError(f"the engine does not start on its data: {error.text}") from None
    executor = ThreadPoolExecutor(STATEMENTS_AT_ONCE, thread_name_prefix="statement")
    config = uvicorn.Config(
        EngineHttp(engine, executor, USER, password),
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_IDLE_CONNECTION_S,
        timeout_graceful_shutdown=GRACE_S,
    )
    asyncio.run(_Server(config, listener.getsockname()[1]).serve(sockets=[listener]))
    executor.shutdown(wait=False, cancel_futures=True)
    if any(thread.name.startswith("statement") and thread.is_alive() for thread in threading.enumerate()):
        # A statement that outlives its grace: inserts are atomic, so what is cut off has not happened.
        os._exit(0)
    engine.close()
    return 0


@contextlib.contextmanager
def _claimed(path: Path) -> Iterator[None]:
    """Hold the directory for this process. The engine has a lock too, but says about it only that it did not start."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise EngineStartError(f"the data directory {path} cannot be used: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.truncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        yield
    except BlockingIOError:
        holder = os.pread(lock, 32, 0).decode(errors="replace") or "another"
        raise EngineStartError(f"process {holder} runs an engine on this data directory") from None
    finally:
        os.close(lock)


@contextlib.contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    # Named as TCP, since only of such a socket asyncio knows that answers must not wait to be sent (TCP_NODELAY).
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as error:
            raise EngineStartError(f"port {port} cannot be listened on: {error.strerror}") from None
        yield listener


def _stop_without_parent(loop: asyncio.AbstractEventLoop, server: _Server) -> None:
    while os.read(0, 1_024):
        pass
    with contextlib.suppress(RuntimeError):  # the loop has ended already
        loop.call_soon_threadsafe(server.stop)


def _read_password() -> str:
    """Return the first line of stdin, read without a buffer: another thread waits for the rest, which is its end."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            break
        line += byte
    if not line.strip():
        raise EngineStartError("no password came on stdin")
    return line.decode().strip()


def _say(what: dict[str, object]) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
