"""The process of the ClickHouse engine (ADR 0008): ``python -m ibex.adapters.clickhouse.engine_server``.

``engine.ClickHouseEngine`` starts it, with this protocol. The first line on stdin is the password. The first line on
stdout is a JSON object: ``port`` as soon as the process accepts requests, or ``error`` before it exits with 1. The
process stops gracefully on SIGTERM, and when stdin ends, which means that its parent has ended.
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
MAX_CONCURRENT_STATEMENTS: Final = 8
NICE: Final = 5
"""The niceness of the engine. Clients wait for their requests; no client waits for traces."""
GRACE_S: Final = 5
_IDLE_CONNECTION_S: Final = 600
_LOCK: Final = "ibex-engine.lock"


class EngineStartError(Exception):
    """The engine cannot be started. The parent process reports the message."""


class _Server(uvicorn.Server):
    """A uvicorn server that reports its port on stdout, and handles signals in the event loop."""

    def __init__(self, config: uvicorn.Config, port: int) -> None:
        super().__init__(config)
        self._port = port

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        _report({"port": self._port})

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
    """Run until SIGTERM or the end of stdin. Return the exit code."""
    parser = argparse.ArgumentParser(prog="ibex-clickhouse-engine")
    parser.add_argument("--path", type=Path, required=True, help="the data directory; created if it does not exist")
    parser.add_argument("--port", type=int, default=0, help="the port to listen on; 0 means any free port")
    chosen = parser.parse_args(arguments)
    os.umask(0o077)
    os.nice(NICE)
    try:
        password = _read_password()
        with _locked(chosen.path), _listening(chosen.port) as listener:
            return _serve(chosen.path, listener, password)
    except EngineStartError as error:
        _report({"error": str(error)})
        return 1


def _serve(path: Path, listener: socket.socket, password: str) -> int:
    # Imported here because loading the engine takes long, and the checks before may refuse to start it.
    from ibex.adapters.clickhouse.engine_http import EngineHttp  # noqa: PLC0415
    from ibex.adapters.clickhouse.engine_statements import Engine, EngineError  # noqa: PLC0415

    try:
        os.chdir(path)  # the engine parses its argument like a URL: a `?` in the path would begin options
        engine = Engine(".")
    except EngineError as error:
        raise EngineStartError(f"the engine cannot open the data in {path}: {error.text}") from None
    executor = ThreadPoolExecutor(MAX_CONCURRENT_STATEMENTS, thread_name_prefix="statement")
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
        # A statement still runs after the grace period. Inserts are atomic, so an interrupted one stores nothing.
        os._exit(0)
    engine.close()
    return 0


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lock the directory for this process. The engine locks it too, but its error does not mention the lock."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise EngineStartError(f"cannot use the data directory {path}: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.truncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        yield
    except BlockingIOError:
        holder = os.pread(lock, 32, 0).decode(errors="replace") or "(unknown)"
        raise EngineStartError(f"process {holder} already runs an engine on the data directory {path}") from None
    finally:
        os.close(lock)


@contextlib.contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    # IPPROTO_TCP is explicit, because asyncio sets TCP_NODELAY only on sockets with this protocol.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as error:
            raise EngineStartError(f"cannot listen on {HOST}:{port}: {error.strerror}") from None
        yield listener


def _stop_without_parent(loop: asyncio.AbstractEventLoop, server: _Server) -> None:
    while os.read(0, 1_024):
        pass
    with contextlib.suppress(RuntimeError):  # the event loop is closed already
        loop.call_soon_threadsafe(server.stop)


def _read_password() -> str:
    """Return the first line of stdin, read without a buffer, because another thread reads stdin until its end."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            break
        line += byte
    if not line.strip():
        raise EngineStartError("no password on stdin")
    return line.decode().strip()


def _report(outcome: dict[str, object]) -> None:
    os.write(1, json.dumps(outcome).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
