"""The lines of `ibex dev`, case by case. Unknown or absent values are not made up."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click
import pytest

from harness.exchanges import a_refusal, an_exchange
from ibex.domain.errors import ErrorCode
from ibex.entrypoints.cli.dev_console import DevConsole
from ibex.entrypoints.home import FirstInstallation
from ibex.entrypoints.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from ibex.domain.record.exchange import Exchange

TOKEN = "ibex_pat_canary"
INSTALLATION = FirstInstallation("org", "acme", "agent-1", "assistant", TOKEN, "ibex_pat_admin")


def line_of(exchange: Exchange, capsys: pytest.CaptureFixture[str], *, journaled: bool = True) -> str:
    """Return the line that the console prints for a request. It must be exactly one."""
    DevConsole(".ibex").recorded(exchange, journaled=journaled)
    (line,) = capsys.readouterr().out.splitlines()
    return str(click.unstyle(line))


@pytest.mark.parametrize(
    ("exchange", "said", "unsaid"),
    [
        (an_exchange(is_streaming=False), "200  gpt-4o  session", "stream"),
        (an_exchange(directive=None), "first byte 250.0 ms", "directive"),
        (replace(an_exchange(), timings=replace(an_exchange().timings, provider_ttfb_ns=None)), "total", "first byte"),
        (an_exchange(status=502, error_code=ErrorCode.PROVIDER_UNAVAILABLE), "PROVIDER_UNAVAILABLE", "not journaled"),
        (an_exchange(session=None), "session -", "conversation-1"),
    ],
    ids=["buffered", "undirected", "no first byte", "failed", "no session"],
)
def test_absent_parts_are_omitted_from_the_line(
    capsys: pytest.CaptureFixture[str], exchange: Exchange, said: str, unsaid: str
) -> None:
    """Each part is printed only if the request has it."""
    line = line_of(exchange, capsys)

    assert said in line
    assert unsaid not in line


@pytest.mark.parametrize("refused", [a_refusal(), a_refusal(caller=None)], ids=["known", "unknown"])
def test_only_requests_of_known_callers_are_reported_as_not_journaled(
    capsys: pytest.CaptureFixture[str], refused: Exchange
) -> None:
    """A request of an unknown caller is never journaled, so this is not a fault."""
    assert ("not journaled" in line_of(refused, capsys, journaled=False)) is (refused.caller is not None)
    assert "not journaled" not in line_of(refused, capsys, journaled=True)


def test_only_the_banner_contains_the_token(capsys: pytest.CaptureFixture[str]) -> None:
    """The banner has it three times. Lines of requests contain neither the token nor any hash of a message."""
    console = DevConsole(".ibex")
    console.starting("PostgreSQL")
    console.ready("http://127.0.0.1:8080", INSTALLATION, Settings())
    banner = capsys.readouterr().out
    for exchange in (an_exchange(), a_refusal(error_code=ErrorCode.RATE_LIMITED)):
        console.recorded(exchange, journaled=True)
        console.recorded(exchange, journaled=False)
    console.stopping()
    lines = capsys.readouterr().out

    assert banner.count(TOKEN) == 3
    assert TOKEN not in lines
    for of_what_was_said in (an_exchange().messages_hash, an_exchange().summary.completion_hash):
        assert of_what_was_said is not None
        assert of_what_was_said[:8] not in lines


@pytest.mark.parametrize(
    ("address", "port", "base_path", "is_said"),
    [
        ("http://127.0.0.1:8081", "8080", "", True),
        ("http://127.0.0.1:8080", "8080", "", False),
        ("http://127.0.0.1:43210", "0", "", False),
        ("http://127.0.0.1:8081/gateway", "8080", "/gateway", True),
        ("http://127.0.0.1:8080/gateway", "8080", "/gateway", False),
    ],
    ids=["taken", "free", "any", "taken, with a base path", "free, with a base path"],
)
def test_a_port_that_is_taken_is_reported(
    capsys: pytest.CaptureFixture[str], address: str, port: str, base_path: str, *, is_said: bool
) -> None:
    """Port 0 selects any port, so nothing is reported. The examples contain the actual address."""
    settings = Settings.load({"IBEX_PORT": port, "IBEX_BASE_PATH": base_path})
    DevConsole(".ibex").ready(address, INSTALLATION, settings)

    banner = capsys.readouterr().out
    assert (f"(port {port} is taken; --port chooses another)" in banner) is is_said
    assert f"curl {address}/v1/chat/completions" in banner
    assert f'base_url="{address}/v1"' in banner


def test_suggested_commands_repeat_the_invocation(capsys: pytest.CaptureFixture[str]) -> None:
    """They include the folder if it is not the default one."""
    DevConsole("else", ".venv/bin/ibex --home else").ready("http://127.0.0.1:8080", INSTALLATION, Settings())

    banner = capsys.readouterr().out
    for command in ('chat "Hello"', "traces tail ", "directive show assistant ", "doctor "):
        assert f"\n.venv/bin/ibex --home else {command}" in banner
    assert "else/proxy.log" in banner


@pytest.mark.parametrize("is_clone", [True, False])
def test_the_next_page_is_named_if_it_exists(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, is_clone: bool
) -> None:
    """A wheel contains no documentation."""
    (tmp_path / "docs").mkdir()
    if is_clone:
        (tmp_path / "docs" / "quick-start.md").touch()
    monkeypatch.chdir(tmp_path)
    DevConsole(".ibex").ready("http://127.0.0.1:8080", INSTALLATION, Settings())

    assert ("Read docs/quick-start.md." in capsys.readouterr().out) is is_clone
