"""The reader of a process's output stops reading. The process continues to serve, and stops on a signal."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from harness.dev import folder_of_its_own, processes_on
from harness.readable import is_readable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

STOP_TIMEOUT_S = 60
SMALL_PIPE = 4_096
COMES_WITHIN_S = 30.0
REQUESTS = 40
"""Their lines are several times as much as the pipe holds."""
ENDS = ["closed", "not read"]
OBEYED = "".join(map(chr, [0x1B, 0x9B, 0x9D, 0x202E, 0x2066, 0x200F, 0x7F]))


class Speaking:
    """A process whose output and error output go into a small pipe."""

    def __init__(self, home: Path, arguments: list[str], **environ: str) -> None:
        self._reading, writing = os.pipe()
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, SMALL_PIPE)
        self._text = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ibex.entrypoints.cli", "--home", str(home), *arguments],
            env={"PATH": os.environ["PATH"], "HOME": str(home.parent), "IBEX_PORT": "0", **environ},
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=writing,
            cwd=home.parent,
            start_new_session=True,
        )
        os.close(writing)

    def read_until(self, wanted: str) -> str:
        """Read until a text has arrived, and return everything read."""
        while wanted.encode() not in self._text:
            self._text += self._read()
        return self._text.decode()

    def read_line(self, wanted: str) -> str:
        """Read until a whole line that contains a text has arrived, and return that line."""
        while True:
            for line in self._text.decode().splitlines(keepends=True):
                if wanted in line and line.endswith("\n"):
                    return line[:-1]
            self._text += self._read()

    def _read(self) -> bytes:
        """Return the next bytes, which must arrive within ``COMES_WITHIN_S``."""
        piece = os.read(self._reading, 1 << 16) if is_readable(self._reading, COMES_WITHIN_S) else b""
        assert piece, self._text.decode()
        return piece

    def stop_reading(self, how: str) -> None:
        """Stop reading, and close the pipe if ``how`` says so."""
        if how == "closed":
            self.close()

    def close(self) -> None:
        """Close the reading end of the pipe."""
        if self._reading >= 0:
            os.close(self._reading)
            self._reading = -1

    def stop(self, number: int) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(STOP_TIMEOUT_S)


@contextmanager
def speaking(home: Path, *arguments: str, **environ: str) -> Iterator[Speaking]:
    """Run a command. Kill it if it does not stop by itself."""
    running = Speaking(home, list(arguments), **environ)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.terminate()
            try:
                running.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                running.process.kill()
                running.process.wait()
        running.close()


def ask(address: str, token: str, model: str = "gpt-4o") -> httpx.Response:
    """Send a chat request."""
    with httpx.Client(base_url=address, trust_env=False, timeout=30) as http:
        return http.post(
            "/v1/chat/completions",
            json={"model": model, "messages": [{"role": "user", "content": "Hi"}]},
            headers={"Authorization": f"Bearer {token}"},
        )


def of(home: Path, file: str) -> dict[str, Any]:
    """Return the content of a JSON file in the home folder."""
    found: dict[str, Any] = json.loads((home / file).read_text())
    return found


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """The home folder of one installation. The module shares it because creating its servers takes seconds."""
    with folder_of_its_own() as folder:
        yield folder / "home"


@pytest.mark.parametrize(("end", "number"), [("closed", signal.SIGTERM), ("not read", signal.SIGINT)])
def test_ibex_dev_serves_without_a_reader_of_its_output(home: Path, end: str, number: int) -> None:
    """Requests are answered and recorded. A signal stops IBEX and its servers with exit code 0."""
    with speaking(home, "dev") as dev:
        dev.read_until("Ctrl-C stops IBEX")
        dev.stop_reading(end)
        address, token = of(home, "running.json")["address"], of(home, "installation.json")["agent_token"]
        seen = [ask(address, token) for _ in range(REQUESTS)]
        assert {answer.status_code for answer in seen} == {200}
        assert dev.stop(number) == 0
    access = [json.loads(line) for line in (home / "proxy.log").read_text().splitlines()]
    told = {line.get("request_id") for line in access if line["event"] == "request"}
    assert {answer.headers["x-request-id"] for answer in seen} <= told
    assert processes_on(home) == []


def test_ibex_serve_serves_without_a_reader_of_its_log(home: Path) -> None:
    """IBEX counts dropped lines and stops on SIGTERM. The lines that were read are ASCII."""
    with speaking(home, "dev") as dev:
        dev.read_until("Ctrl-C stops IBEX")
        token = of(home, "installation.json")["agent_token"]
        for end in ENDS:
            with speaking(home, "serve") as proxy:
                address = json.loads(proxy.read_line("listening on"))["event"].removeprefix("listening on ")
                assert ask(address, token, f"gpt-4o-\N{MOUNTAIN}{OBEYED}").status_code in {200, 400}
                line = proxy.read_line('"ibex.access"')
                assert line.isascii()
                assert line.isprintable()
                proxy.stop_reading(end)
                assert {ask(address, token).status_code for _ in range(REQUESTS)} == {200}
                if end == "closed":
                    assert dropped(address) >= REQUESTS - 1
                assert proxy.stop(signal.SIGTERM) == 0
        assert dev.stop(signal.SIGTERM) == 0
    assert processes_on(home) == []


def dropped(address: str) -> float:
    """Return the number of dropped lines that the process reports."""
    with httpx.Client(base_url=address, trust_env=False) as http:
        text = http.get("/metrics").text
    found = re.search(r"^ibex_proxy_log_lines_dropped_total (\S+)$", text, re.MULTILINE)
    assert found is not None
    return float(found[1])
