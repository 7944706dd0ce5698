"""The servers of peers.toml: install each into its own environment, and start it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HERE = Path(__file__).parent
ENVIRONMENT = HERE.parents[1] / ".venv-peers"
KEY = "sk-peer"
START_TIMEOUT_S = 120
STOP_TIMEOUT_S = 20


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A server; peers.toml documents its members."""

    name: str
    package: str
    command: str
    overrides: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)
    path: str = "/v1"
    model: str = "gpt-4o-mini"
    tools: str | None = None
    slow: str | None = None
    limited: str | None = None
    behind: str | None = None
    only_bench: bool = False
    ibex: Mapping[str, str] = field(default_factory=dict)

    def install(self, python: str = sys.executable) -> None:
        """Create the environment of the peer, once for each version. ``python`` runs it unless it is a node server."""
        home = ENVIRONMENT / self.name
        is_node = self.command.startswith("node ")
        stamp, wanted = home / "installed", f"{self.package} {dict(self.overrides)}{'' if is_node else f' {python}'}"
        if stamp.exists() and stamp.read_text() == wanted:
            return
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        if is_node:
            (home / "package.json").write_text(json.dumps({"private": True, "overrides": dict(self.overrides)}))
            run = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(home)]
        else:
            subprocess.run([python, "-m", "venv", home], check=True)
            run = [str(home / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*run, self.package], check=True, stdout=subprocess.DEVNULL, cwd=home)
        stamp.write_text(wanted)

    @property
    def is_installed(self) -> bool:
        """Whether an environment of the peer exists, for any version."""
        return (ENVIRONMENT / self.name / "installed").exists()

    @contextlib.contextmanager
    def running(self, headers: Mapping[str, str], upstream: str = "") -> Iterator[str]:
        """Run the peer on a free port; yield its base URL. ``headers`` are added to the requests of a node server.

        ``upstream`` is the base URL of the server that it forwards to.
        """
        with self.process(headers, upstream) as (base_url, _):
            yield base_url

    @contextlib.contextmanager
    def process(self, headers: Mapping[str, str], upstream: str = "") -> Iterator[tuple[str, int]]:
        """Run the peer as ``running`` does; yield its process id as well, which is also its process group's."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = int(server.getsockname()[1])
        home = ENVIRONMENT / self.name

        def filled(text: str) -> str:
            return text.replace("{port}", str(port)).replace("{upstream}", upstream)

        program, *arguments = filled(self.command).split()
        if program == "node":
            script, *arguments = arguments
            arguments = ["--require", str(HERE / "loopback.cjs"), str(home / "node_modules" / script), *arguments]
        else:
            program = str(home / "bin" / program)
        with tempfile.TemporaryDirectory(prefix="peer-") as name, (Path(name) / "output").open("w+") as output:
            for file, text in self.files.items():
                (Path(name) / file).write_text(filled(text))
            environ = {"PATH": f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}", "HOME": name, "PORT": str(port)}
            environ |= {"PEER_HEADERS": json.dumps(dict(headers))}
            environ |= {variable: filled(value) for variable, value in self.environ.items()}
            process = subprocess.Popen(
                [program, *arguments], cwd=name, env=environ, stdout=output, stderr=output, start_new_session=True
            )
            try:
                if not _listens(port, process):
                    output.seek(0)
                    raise RuntimeError(f"{self.package} did not start:\n{output.read()[-2000:]}")
                yield f"http://127.0.0.1:{port}{self.path}", process.pid
            finally:
                _stop(process)


def _listens(port: int, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.1)  # a foreign program sends no notification when it listens
        else:
            return True
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop the process group, since some peers start another program for the work."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, 15)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.wait()


PEERS = {name: Peer(name=name, **it) for name, it in tomllib.loads((HERE / "peers.toml").read_text()).items()}
