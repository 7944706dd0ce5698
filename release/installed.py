"""An environment with nothing but the wheel, and a completion through the `ibex dev` that it contains."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
import venv
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

START_TIMEOUT_S: Final = 120
STOP_TIMEOUT_S: Final = 30
REQUEST_TIMEOUT_S: Final = 30
READY: Final = "IBEX is ready"


class CheckError(Exception):
    """A step of the check failed. The message says which, and with what output."""


def install(wheel: Path, environment: Path, constraints: Path, extras: str) -> Path:
    """Create an environment without pip, install the wheel with extras into it, and return its interpreter."""
    venv.create(environment, with_pip=False, symlinks=True)
    python = environment / "bin" / "python"
    what = f"{wheel}[{extras}]" if extras else str(wheel)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    run([*pip, "install", "--quiet", "--constraint", str(constraints), what])
    return python


def run(command: list[str], **options: Any) -> str:
    """Run a program and return its output. Raises ``CheckError``."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode != 0:
        shown = "\n".join((done.stdout + done.stderr).strip().splitlines()[-20:])
        raise CheckError(f"{' '.join(command[:6])} ... ended with exit code {done.returncode}:\n{shown}")
    return str(done.stdout)


def complete(python: Path, folder: Path) -> str:
    """Start `ibex dev` on a free port in a folder, ask for a completion, and stop it. Return what it answered.

    Raises ``CheckError`` if the answer is not 200, or `ibex dev` does not end with exit code 0.
    """
    home = folder / "home"
    with _dev(python, folder, home):
        address = urlsplit(str(_read(home / "running.json")["address"]))
        connection = http.client.HTTPConnection(address.netloc, timeout=REQUEST_TIMEOUT_S)
        body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "What is an ibex?"}]}
        headers = {
            "Authorization": f"Bearer {_read(home / 'installation.json')['agent_token']}",
            "Content-Type": "application/json",
        }
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
    if response.status != http.client.OK:
        raise CheckError(f"the completion got {response.status}: {text}")
    return str(json.loads(text)["choices"][0]["message"]["content"])


@contextmanager
def _dev(python: Path, folder: Path, home: Path) -> Iterator[None]:
    """Run `ibex dev` while the block runs. No setting of this process' environment reaches it."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    log = folder / "dev.log"
    command = [str(python.with_name("ibex")), "--home", str(home), "dev", "--port", "0"]
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            _wait_until_ready(process, log)
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                code = process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
    if code != 0:
        raise CheckError(f"ibex dev ended with exit code {code}:\n{log.read_text()}")


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while READY not in log.read_text():
        if process.poll() is not None or time.monotonic() > deadline:
            raise CheckError(f"ibex dev did not become ready:\n{log.read_text()}")
        time.sleep(0.1)  # another program writes the file


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))
