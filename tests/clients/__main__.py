"""`make clients`: real clients through IBEX, one row per case: the client's result, and what IBEX received.

Exit code 0: every client got what the scripted provider sends, and every error with its code. ARGS selects some of the
clients; -v prints each outcome. docs/clients.md has the configuration of each client.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from clients.install import HERE, NODE_HOME, PYTHON_HOME, install, versions
from clients.provider import AFTER_THE_TOOL, REFUSAL_CODE, ClientsProvider
from harness.dev import IbexDev, folder_of_its_own
from harness.openai_default import TEXT_PIECES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

DIRECTIVE: Final = "Answer as the canary of the clients."
NO_PROXY: Final = "http://127.0.0.1:9"
"""Where nothing listens: a client that asks anything but IBEX fails there."""
LOG_TIMEOUT_S: Final = 10
CASE_TIMEOUT_S: Final = 300
POLL_S: Final = 0.01
METRICS: Final = "/metrics"
UNDER_WAY: Final = re.compile(r"^ibex_proxy_requests_under_way(?:\{[^}]*\})? (\S+)$", re.MULTILINE)
UPGRADE: Final = "(WebSocket)"
"""Stands for the route of an upgrade, which IBEX refuses before it looks for one."""
_TEXT: Final = "".join(TEXT_PIECES)
_FROM_THE_TOOL: Final = f"{AFTER_THE_TOOL}7 degrees in scripted"
_OF_TOOLS: Final = {"tool": "weather", "text": _FROM_THE_TOOL}

EXPECTED: Final[Mapping[str, Mapping[str, object]]] = {
    "chat": {"text": _TEXT},
    "streaming": {"text": _TEXT, "pieces": len(TEXT_PIECES), "tokens": 11},
    "tools": _OF_TOOLS,
    "tools, streamed": _OF_TOOLS,
    "structured output": {"parsed": {"name": "scripted", "legs": 1}},
    "continued": {"text": _TEXT},
    "interrupted": {"text": TEXT_PIECES[0], "told": True},
    "bad token": {"status": 401, "code": "INVALID_TOKEN"},
    "unknown model": {"status": 404, "code": "model_not_found"},
    "refused": {"status": 400, "code": REFUSAL_CODE},
}
"""What the outcome of a case must contain."""
EXPECTED_OF_CODEX: Final = {
    **EXPECTED,
    "streaming": {"text": _TEXT},
    "tools": {"output": "ibex-42", "answered": True},
    **{case: {"told": True} for case in ("interrupted", "bad token", "unknown model", "refused")},
}
CASES: Final = {"chat": [case for case in EXPECTED if case != "continued"], "responses": list(EXPECTED)}
CASES_OF_CODEX: Final = [case for case in EXPECTED if case not in {"chat", "tools, streamed", "continued"}]


@dataclass(frozen=True, kw_only=True)
class Client:
    """A program of this folder, its packages, whose versions are reported, and its cases for each API."""

    program: str
    packages: tuple[str, ...]
    cases: Mapping[str, list[str]] = field(default_factory=lambda: CASES)
    expected: Mapping[str, Mapping[str, object]] = field(default_factory=lambda: EXPECTED)
    one_session: str = "continued"
    """The case whose two turns are in one session, because the client says so in its own way."""
    tries_websocket: bool = False
    """Whether it first asks for WebSocket, once, in each case."""


CLIENTS: Final = {
    "openai-python": Client(program="openai_python", packages=("python:openai",)),
    "openai-node": Client(program="openai_node.mjs", packages=("npm:openai",)),
    "ai-sdk": Client(program="ai_sdk.mjs", packages=("npm:ai", "npm:@ai-sdk/openai")),
    "langchain": Client(program="langchain_python", packages=("python:langchain-openai",)),
    "codex": Client(
        program="codex_cli",
        packages=("npm:@openai/codex",),
        cases={"responses": CASES_OF_CODEX, "built_in": ["tools"]},
        expected=EXPECTED_OF_CODEX,
        one_session="tools",
        tries_websocket=True,
    ),
}


@dataclass(frozen=True)
class Row:
    """One case of one client."""

    client: str
    version: str
    case: str
    problem: str | None
    call: str
    requests: str
    outcome: object

    def cells(self) -> list[str]:
        """Return the row of the table."""
        return [self.client, self.version, self.case, self.problem or "ok", f"`{self.call}`: {self.requests}"]


class Stage:
    """IBEX in front of the scripted provider, and the access lines that IBEX logs."""

    def __init__(self, provider: ClientsProvider, folder: Path) -> None:
        environ = {
            "OPENAI_API_KEY": "sk-clients",
            "OPENAI_BASE_URL": provider.base_url,
            "IBEX_RATE_LIMIT_DEFAULT_RPM": "0",
        }
        self.provider = provider
        self.folder = folder
        self.dev = IbexDev.start(folder / "home", environ)
        self.token = self.dev.installation["agent_token"]
        set_up = self.dev.ibex("directive", "set", self.dev.installation["agent_name"], DIRECTIVE)
        assert set_up.returncode == 0, set_up.stderr
        self.seen: list[dict[str, Any]] = []
        self._log = (self.dev.home / "proxy.log").open("rb")

    def environ(self) -> dict[str, str]:
        """Return the environment of a client: two settings that point it to IBEX, and no route to another server."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "PYTHONPATH": str(HERE.parent),
            "OPENAI_BASE_URL": f"{self.dev.address}/v1",
            "OPENAI_API_KEY": self.token,
            "HTTP_PROXY": NO_PROXY,
            "HTTPS_PROXY": NO_PROXY,
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def look(self) -> None:
        """Read new access lines into ``seen``, once every request has ended."""
        deadline = time.monotonic() + LOG_TIMEOUT_S
        last = self._quiet(deadline)
        self.seen = []
        while time.monotonic() < deadline:
            line = self._log.readline()
            if not line.endswith(b"\n"):
                self._log.seek(-len(line), os.SEEK_CUR)
                time.sleep(POLL_S)  # nothing signals that a line is in the file
                continue
            entry = json.loads(line)
            if entry.get("request_id") == last:
                return
            self.seen += [entry] if entry["event"] == "request" and entry["route"] != METRICS else []
        raise TimeoutError("IBEX did not log a request")

    def _quiet(self, deadline: float) -> str:
        """Wait until this request is the only one of IBEX. Return its id, whose access line is then the last."""
        while time.monotonic() < deadline:
            request_id = str(uuid.uuid4())
            connection = http.client.HTTPConnection(urlsplit(self.dev.address).netloc, timeout=LOG_TIMEOUT_S)
            connection.request("GET", METRICS, headers={"x-request-id": request_id})
            text = connection.getresponse().read().decode()
            connection.close()
            counts = [float(count) for count in UNDER_WAY.findall(text)]
            assert counts, "IBEX does not count its requests"
            if sum(counts) <= 1:
                return request_id
            time.sleep(POLL_S)  # nothing signals the end of a request
        raise TimeoutError("a request did not end")


@contextmanager
def _started(client: Client, stage: Stage) -> Iterator[subprocess.Popen[str]]:
    if client.program.endswith(".mjs"):
        command = ["node", str(NODE_HOME / client.program)]
    else:
        command = [str(PYTHON_HOME / "bin" / "python"), "-m", f"clients.{client.program}"]
    with subprocess.Popen(
        command, env=stage.environ(), cwd=stage.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def _ask(process: subprocess.Popen[str], api: str, case: str) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps({"api": api, "case": case}) + "\n")
    process.stdin.flush()
    watchdog = threading.Timer(CASE_TIMEOUT_S, process.kill)
    watchdog.start()
    try:
        line = process.stdout.readline()
    finally:
        watchdog.cancel()
    return dict(json.loads(line)) if line else {"failure": f"the program ended, or took {CASE_TIMEOUT_S} s"}


def _requests(seen: list[dict[str, Any]]) -> str:
    counts = Counter(f"{line['method']} {line['route'] or UPGRADE} {line['status']}" for line in seen)
    return ", ".join(text if count == 1 else f"{text} ({count}x)" for text, count in counts.items())


def _problem(client: Client, api: str, case: str, said: dict[str, Any], stage: Stage) -> str | None:
    """Return the problem of an outcome, by what IBEX and the provider received; None if there is none."""
    if "failure" in said:
        return str(said["failure"])
    expected = client.expected[case]
    wrong = {name: said["outcome"].get(name) for name, value in expected.items() if said["outcome"].get(name) != value}
    if wrong:
        return f"expected {dict(expected)}, got {wrong}"
    route = "/v1/chat/completions" if api == "chat" else "/v1/responses"
    posts = [line for line in stage.seen if line["method"] == "POST"]
    others = [line["status"] for line in stage.seen if line["method"] != "POST"]
    sessions = [line.get("session_id") for line in posts]
    in_one = len(sessions) == 2 and len({*sessions}) == 1
    problems = {
        f"it did not call {route} alone": {line["route"] for line in posts} != {route},
        f"its other requests got {others}": others != [426] * client.tries_websocket,
        f"its turns are in sessions {sessions}": case == client.one_session and not in_one,
        "the client got the directive": DIRECTIVE in json.dumps(said),
        "the provider did not get the directive": any(
            DIRECTIVE.encode() not in request.body for request in stage.provider.requests
        ),
    }
    return next((problem for problem, is_so in problems.items() if is_so), None)


def _play(name: str, stage: Stage) -> Iterator[Row]:
    client, pins = CLIENTS[name], versions()
    version = ", ".join(pins[package] for package in client.packages)
    with _started(client, stage) as process:
        for api, case in ((api, case) for api, cases in client.cases.items() for case in cases):
            stage.provider.requests.clear()
            said = _ask(process, api, case)
            stage.look()
            problem = _problem(client, api, case, said, stage)
            yield Row(name, version, case, problem, said.get("call", api), _requests(stage.seen), said.get("outcome"))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> int:
    """Run all cases of the named clients, by default of all; return the exit code."""
    parser = argparse.ArgumentParser(prog="make clients", description=main.__doc__)
    parser.add_argument("clients", nargs="*", help=f"of {', '.join(CLIENTS)}; without one, all")
    parser.add_argument("-v", action="store_true", help="print each outcome")
    options = parser.parse_args(arguments)
    if unknown := {*options.clients} - {*CLIENTS}:
        parser.error(f"no such client: {', '.join(sorted(unknown))}. There are {', '.join(CLIENTS)}.")
    _say("installing the clients ...")
    install()
    rows: list[Row] = []
    with ExitStack() as stack:
        provider = stack.enter_context(ClientsProvider.in_thread())
        folder = stack.enter_context(folder_of_its_own())
        stage = Stage(provider, folder)
        stack.callback(stage.dev.stop)
        for name in options.clients or CLIENTS:
            _say(f"{name} ...")
            for row in _play(name, stage):
                rows.append(row)
                if row.problem or options.v:
                    _say(f"  {row.case}: {row.problem or 'ok'}: {row.outcome}")
    table = [["client", "version", "case", "result", "what was called"], ["---"] * 5, *(row.cells() for row in rows)]
    _say("\n".join(f"| {' | '.join(cells)} |" for cells in table))
    failed = sum(row.problem is not None for row in rows)
    _say(f"{len(rows)} cases, {failed} failed")
    return 1 if failed or not rows else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
