"""Other programs that listen on a loopback port while a block runs."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

START_TIMEOUT_S: Final = 20
STOP_TIMEOUT_S: Final = 5
_GIVEN: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """Return a port on which nothing listens.

    It is outside the range of ephemeral ports, so that it stays free until a server takes it, even after a restart.
    """
    first_given = int(_GIVEN.read_text().split()[0]) if _GIVEN.exists() else 32_768
    while True:
        port = secrets.SystemRandom().randrange(first_given // 2, first_given)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@contextmanager
def listening(command: Sequence[str], port: int, env: Mapping[str, str] | None = None) -> Iterator[int]:
    """Run a program, and yield its process id once it accepts connections. Raises ``RuntimeError`` if it does not."""
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=env)
    try:
        _wait_for(port, process)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)  # a foreign program sends no notification when it listens
    raise RuntimeError("a server did not start")


@contextmanager
def fast_provider(*options: str) -> Iterator[str]:
    """Run ``harness.fast_openai`` with these options; yield its base URL."""
    with fast_provider_process(*options) as (base_url, _):
        yield base_url


@contextmanager
def fast_provider_process(*options: str) -> Iterator[tuple[str, int]]:
    """Run ``harness.fast_openai`` with these options; yield its base URL and process id."""
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "harness.fast_openai", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as process:
        try:
            said = process.stdout.readline() if process.stdout else ""
            yield said.strip().removeprefix("listening on "), process.pid
        finally:
            process.terminate()  # it forwards SIGTERM to its child processes
