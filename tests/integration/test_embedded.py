"""`ibex dev` as a process: its output, its servers, and the refusal of a second process."""

from __future__ import annotations

import io
import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from harness.dev import IbexDev, folder_of_its_own, processes_on
from harness.process import IbexProcess
from ibex.domain.freshness.kinds import BOUND_S
from ibex.entrypoints.embedded import FIRST_DIRECTIVE

if TYPE_CHECKING:
    from collections.abc import Iterator


pytestmark = pytest.mark.integration

PATIENCE_S = 60.0
HANGUPS_APART_S = 0.2
"""Both the shell and the system send SIGHUP when a terminal closes."""
DEFAULT_RPM = 600
QUESTION = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello there"}]}


@pytest.fixture(scope="module")
def dev() -> Iterator[IbexDev]:
    """One `ibex dev` without a provider key."""
    with folder_of_its_own() as folder:
        running = IbexDev.start(folder / "home", {})
        yield running
        if running.running.process.poll() is None:
            running.stop()


def test_the_printed_curl_works_when_pasted(dev: IbexDev) -> None:
    """It is one command, and the echo provider responds to it."""
    text = "\n".join(dev.lines)
    start = text.index("curl ")
    command = text[start : text.index("\n\n", start)]
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, timeout=30, check=True)
    assert '"object":"chat.completion"' in done.stdout.replace(" ", "")


def test_a_chat_over_the_responses_api_is_one_session(dev: IbexDev, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second prompt continues the response to the first. Both turns are on record in the same session."""
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\nAgain\n"))
    done = dev.ibex("chat", "--responses")
    assert (done.returncode, done.stdout.split()) == (0, ["Hello", "Again"]), done.stderr
    (session,) = re.findall(r"session (\S+)", done.stderr)
    deadline = time.monotonic() + PATIENCE_S
    while dev.ibex("sessions", "show", session, "--json").stdout.count('"operation":"responses"') < 2:
        assert time.monotonic() < deadline, "the second turn is not on record"


def test_the_doctor_finds_nothing_wrong(dev: IbexDev) -> None:
    """The servers, the journal and the proxy of the folder are ok. Unused dependencies are reported as absent."""
    verdicts = {finding["name"]: finding["verdict"] for finding in dev.ibex_json("doctor")["findings"]}
    in_use = ("PostgreSQL", "identity", "ClickHouse", "provider", "journal", "proxy")
    assert verdicts == {**dict.fromkeys(in_use, "ok"), **dict.fromkeys(("Redis", "auth"), "absent")}


def test_the_base_path_is_in_all_printed_commands() -> None:
    """The printed curl command, `ibex chat` and `ibex doctor` find the proxy below the base path."""
    with folder_of_its_own() as folder:
        below = IbexDev.start(folder / "home", {"IBEX_BASE_PATH": "/gateway"})
        try:
            assert below.address.endswith("/gateway")
            test_the_printed_curl_works_when_pasted(below)
            assert below.ibex("chat", "Hello").returncode == 0
            test_the_doctor_finds_nothing_wrong(below)
        finally:
            below.stop()


def test_each_request_is_logged_in_one_line(dev: IbexDev) -> None:
    """The line on the terminal contains the session and the status."""
    answer = _ask(dev, {"X-IBEX-Session-ID": "shown-in-a-line"})
    assert answer.status_code == 200
    assert "200" in dev.wait_for_line("shown-in-a-line", 10)


def test_a_killed_server_is_restarted(dev: IbexDev) -> None:
    """Requests succeed in the meantime and are recorded once the servers are back."""
    assert _ask(dev).status_code == 200
    postmaster = int((dev.home / "postgres" / "data" / "postmaster.pid").read_text().split()[0])
    (engine,) = _children(dev.running.process.pid)
    for pid in (postmaster, engine):
        os.kill(pid, signal.SIGKILL)
    answer = _ask(dev, {"X-IBEX-Session-ID": "across-two-deaths"})
    assert answer.status_code == 200
    request_id = answer.headers["x-request-id"]
    deadline = time.monotonic() + PATIENCE_S
    while not _is_on_record(dev, "across-two-deaths", request_id):
        assert time.monotonic() < deadline, "it is on record nowhere"


def _is_on_record(dev: IbexDev, session: str, request_id: str) -> bool:
    shown, tail = dev.ibex("sessions", "show", session, "--json"), dev.ibex("traces", "tail", "--json")
    return all(done.returncode == 0 and request_id in done.stdout for done in (shown, tail))


def _children(pid: int) -> list[int]:
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for children in threads for child in children.read_text().split()]


def test_a_token_revoked_by_another_process_is_refused_within_the_bound(dev: IbexDev) -> None:
    """``test_embedded_changes`` tests that the next request is refused."""
    token = dev.ibex_json("token", "create", "--name", "short-lived", "--agent", dev.installation["agent_id"])["token"]
    assert _ask(dev, token=token).status_code == 200
    display_prefix = token[: len("ibex_pat_") + 36]
    revoked = dev.ibex("token", "revoke", display_prefix)
    returned = time.monotonic()
    assert revoked.returncode == 0, revoked.stderr
    while (status := _ask(dev, token=token).status_code) == 200:
        assert time.monotonic() < returned + BOUND_S
    assert status == 401


def test_a_rate_limit_changed_by_another_process_applies_within_the_bound(dev: IbexDev) -> None:
    """`ibex org set` works on the embedded database, without Redis."""
    org = dev.ibex_json("org", "create", "limited", "--rpm", "1")["id"]
    agent = dev.ibex_json("agent", "create", "one", "--org", org)["id"]
    token = dev.ibex_json("token", "create", "--name", "t", "--org", org, "--agent", agent)["token"]
    while _ask(dev, token=token).status_code == 200:  # at most three requests: one minute may end in between
        pass
    for limit in (100_000, 50_000, None):
        dev.ibex_json("org", "set", "limited", *("--default-rpm",) if limit is None else ("--rpm", str(limit)))
        returned = time.monotonic()
        while (answer := _ask(dev, token=token)).headers["x-ratelimit-limit"] != str(limit or DEFAULT_RPM):
            assert time.monotonic() < returned + BOUND_S
        if limit is not None:  # far more than the requests of this test
            assert answer.status_code == 200


def test_the_first_agent_has_the_first_directive(dev: IbexDev) -> None:
    """`ibex directive show` shows the injected text. The response's receipt names version 1."""
    shown = dev.ibex("directive", "show", dev.installation["agent_name"])
    assert FIRST_DIRECTIVE in shown.stdout
    assert _ask(dev).headers["x-ibex-directive"].startswith("1@")


def test_a_second_process_on_the_same_folder_reports_the_first_and_exits(dev: IbexDev) -> None:
    """The error contains the process id of the first, which continues to serve."""
    second = IbexProcess.spawn(["--home", str(dev.home), "dev", "--port", "0"], {}, dev.home.parent)
    assert second.wait() == 1
    assert str(dev.running.process.pid) in "\n".join(second.lines)
    assert _ask(dev).status_code == 200


def test_no_file_but_the_installation_file_contains_texts_or_tokens(dev: IbexDev) -> None:
    """Neither the log, the journal nor the databases' files contain the prompt, the completion or the token."""
    canary = "canary-9f2c71"
    assert _ask(dev, question=canary).status_code == 200
    assert _ask(dev, {"X-IBEX-Session-ID": "after-the-canary"}).status_code == 200
    dev.wait_for_line("after-the-canary", 10)
    secret = dev.installation["agent_token"].encode()
    found = [
        str(path.relative_to(dev.home))
        for path in _files_below(dev.home)
        if path.is_file() and path.name != "installation.json"
        if canary.encode() in (content := _content(path)) or secret in content
    ]
    assert found == []


def _files_below(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder. ``os.walk`` skips folders that a server removes in the meantime."""
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names)


def _content(path: Path) -> bytes:
    """Return the content of a file, or nothing if a server has removed it in the meantime."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def test_ctrl_c_stops_all_processes(dev: IbexDev) -> None:
    """The exit code is 0, and no process of the folder remains."""
    assert len(processes_on(dev.home)) >= 3  # ibex dev, PostgreSQL, the engine
    assert dev.stop(signal.SIGINT) == 0, "\n".join(dev.lines)
    assert processes_on(dev.home) == []
    assert f"stopped; the data stays in {dev.home}." in dev.lines


def _ask(
    dev: IbexDev, headers: dict[str, str] | None = None, *, token: str | None = None, question: str = "Hello there"
) -> httpx.Response:
    body = {**QUESTION, "messages": [{"role": "user", "content": question}]}
    bearer = {"Authorization": f"Bearer {token or dev.installation['agent_token']}"}
    with httpx.Client(trust_env=False) as client:
        return client.post(f"{dev.address}/v1/chat/completions", json=body, headers={**bearer, **(headers or {})})


def test_sigterm_during_the_start_leaves_no_process() -> None:
    """The signal arrives while PostgreSQL and the engine start. Neither of them remains."""
    with folder_of_its_own() as folder:
        home = folder / "home"
        starting = IbexProcess.spawn(["--home", str(home), "dev", "--port", "0"], {}, folder)
        starting.wait_for_line("starting PostgreSQL", 30)

        assert starting.stop(signal.SIGTERM) == 128 + signal.SIGTERM
        assert processes_on(home) == []


@pytest.fixture
def hangup_by_default() -> Iterator[None]:
    """Undo ``nohup`` for the processes that a test starts, because a child ignores what its parent ignores."""
    previous = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, previous)


@pytest.mark.usefixtures("hangup_by_default")
def test_closing_the_terminal_stops_all_processes() -> None:
    """SIGHUP stops the servers both while they serve and while they start. A second one does not stop the cleanup."""
    with folder_of_its_own() as folder:
        running = IbexDev.start(folder / "home", {})
        assert len(processes_on(running.home)) >= 3
        running.running.process.send_signal(signal.SIGHUP)
        running.wait_for_line("stopping", PATIENCE_S)
        time.sleep(HANGUPS_APART_S)
        assert running.stop(signal.SIGHUP) == 0, "\n".join(running.lines)
        assert processes_on(running.home) == []
        starting = IbexProcess.spawn(["--home", str(folder / "home"), "dev", "--port", "0"], {}, folder)
        starting.wait_for_line("starting PostgreSQL", 30)
        starting.process.send_signal(signal.SIGHUP)  # from the shell, and then from the system
        time.sleep(HANGUPS_APART_S)
        assert starting.stop(signal.SIGHUP) == 128 + signal.SIGTERM
        assert processes_on(folder / "home") == []


def test_a_folder_name_with_shell_syntax_works() -> None:
    """Quotes, `$`, backquotes, commas and spaces in the name are not expanded by a shell. The printed command works."""
    with folder_of_its_own() as folder:
        work = folder / "work"
        work.mkdir()
        home = work / "a \"b\" 'c', $(touch ran1) `touch ran2`; touch ran3 ?x=%41#"
        running = IbexDev.start(home, {})
        try:
            assert _ask(running).status_code == 200
            pid = (home / "postgres" / "data" / "postmaster.pid").read_text().split("\n")[0]
            assert Path(f"/proc/{pid}/cwd").samefile(home / "postgres" / "data")
            assert running.ibex_json("org", "list")[0]["name"] == "default"
            printed = next(line for line in running.lines if " traces tail " in line)
            command = shlex.split(printed, comments=True)
            assert command[-4:] == ["--home", str(home), "traces", "tail"]
        finally:
            code = running.stop()

        assert (code, list(folder.rglob("ran*")), list(work.iterdir())) == (0, [], [home])
        assert not list(Path("/").glob("ran[123]*"))
        again = IbexDev.start(home, {})
        assert _ask(again).status_code == 200
        assert again.stop() == 0
