"""A change by a command is in force at the next request to `ibex dev`, which has no Redis (ADR 0070)."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

import httpx
import pytest

from harness.dev import IbexDev, folder_of_its_own
from ibex.domain.freshness.kinds import BOUND_S

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

TIMES = 30
"""Without the epoch, about one request of five is too early for the watch."""
QUESTION = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello there"}]}


@pytest.fixture(scope="module")
def dev() -> Iterator[IbexDev]:
    """One `ibex dev` without a provider key and without a rate limit that matters here."""
    with folder_of_its_own() as folder:
        running = IbexDev.start(folder / "home", {"IBEX_RATE_LIMIT_DEFAULT_RPM": "0"})
        yield running
        running.stop()


def test_each_directive_is_in_the_next_request(dev: IbexDev) -> None:
    """Setting a directive and rolling it back take effect before the command returns."""
    agent = dev.installation["agent_name"]
    token = dev.installation["agent_token"]
    stale = []
    for number in range(TIMES):
        receipts = [dev.ibex_json("directive", "set", agent, f"Text {number}.")["receipt"]]
        answers = [_ask(dev, token).headers["x-ibex-directive"]]
        receipts.append(dev.ibex_json("directive", "rollback", agent, "1")["receipt"])
        answers.append(_ask(dev, token).headers["x-ibex-directive"])
        stale += [pair for pair in zip(receipts, answers, strict=True) if pair[0] not in pair[1]]
    assert not stale, f"{len(stale)} of {2 * TIMES}"


def test_each_revoked_token_is_refused_at_the_next_request(dev: IbexDev) -> None:
    """The token has just been used, so the proxy has it in memory."""
    statuses = []
    for number in range(TIMES):
        token = dev.ibex_json("token", "create", "--name", f"t{number}", "--agent", dev.installation["agent_id"])
        before = _ask(dev, token["token"]).status_code
        _run(dev, "token", "revoke", token["id"])
        statuses.append((before, _ask(dev, token["token"]).status_code))
    assert statuses == [(200, 401)] * TIMES


def test_each_status_of_an_agent_is_in_force_at_the_next_request(dev: IbexDev) -> None:
    """A paused agent is refused, and an activated one is served."""
    agent, token = dev.installation["agent_name"], dev.installation["agent_token"]
    statuses = []
    for _ in range(TIMES):
        _run(dev, "agent", "pause", agent)
        paused = _ask(dev, token).status_code
        _run(dev, "agent", "activate", agent)
        statuses.append((paused, _ask(dev, token).status_code))
    assert statuses == [(403, 200)] * TIMES


def test_each_limit_and_status_of_an_organization_is_in_force_at_the_next_request(dev: IbexDev) -> None:
    """The limit is in a header of each response. A suspended organization is refused."""
    name, token = dev.installation["org_name"], dev.installation["agent_token"]
    found = []
    for number in range(TIMES):
        _run(dev, "org", "set", name, "--rpm", str(50_000 + number))
        limited = _ask(dev, token).headers.get("x-ratelimit-limit")
        _run(dev, "org", "suspend", name)
        suspended = _ask(dev, token).status_code
        _run(dev, "org", "activate", name)
        found.append((limited, suspended, _ask(dev, token).status_code))
    assert found == [(str(50_000 + number), 401, 200) for number in range(TIMES)]


def test_without_the_file_a_command_says_that_the_change_takes_longer(dev: IbexDev) -> None:
    """Standard error has one line about it. The watch delivers the change."""
    agent, token = dev.installation["agent_name"], dev.installation["agent_token"]
    file, away = dev.home / "epoch", dev.home / "moved"
    file.rename(away)
    try:
        command = [sys.executable, "-m", "ibex.entrypoints.cli", "--home", str(dev.home), "agent", "pause", agent]
        done = subprocess.run(command, env={}, cwd=dev.home.parent, capture_output=True, text=True, check=True)
        returned = time.monotonic()
        assert done.stderr == (
            f"Cannot write {file} (No such file or directory)."
            " A change is in force within 5 s instead of at the next request.\n"
        )
        while _ask(dev, token).status_code == 200:
            assert time.monotonic() < returned + BOUND_S
    finally:
        away.rename(file)
    _run(dev, "agent", "activate", agent)
    assert _ask(dev, token).status_code == 200


def _run(dev: IbexDev, *arguments: str) -> None:
    done = dev.ibex(*arguments)
    assert (done.returncode, done.stderr) == (0, "")


def _ask(dev: IbexDev, token: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}", "X-Agent-ID": dev.installation["agent_id"]}
    return httpx.post(f"{dev.address}/v1/chat/completions", json=QUESTION, headers=headers, timeout=30)
