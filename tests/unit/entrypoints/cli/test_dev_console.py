"""What `ibex dev` says on its terminal."""

from __future__ import annotations

import pytest

from harness.exchanges import a_refusal, an_exchange
from ibex.domain.errors import ErrorCode
from ibex.entrypoints.cli.dev_console import DevConsole
from ibex.entrypoints.home import FirstInstallation
from ibex.entrypoints.settings import Settings

INSTALLATION = FirstInstallation("org", "acme", "agent-1", "assistant", "ibex_pat_one", "ibex_pat_admin")


@pytest.mark.parametrize(
    ("environ", "provider"),
    [({}, "echo"), ({"OPENAI_API_KEY": "sk-canary", "OPENAI_BASE_URL": "http://127.0.0.1:1/v1"}, "http://127.0.0.1:1")],
)
def test_what_is_needed_is_printed_once(
    capsys: pytest.CaptureFixture[str], environ: dict[str, str], provider: str
) -> None:
    """Address, token, agent and who answers; the administrator's token and the provider's key are nobody's to read."""
    DevConsole(".ibex").ready("http://127.0.0.1:8080", INSTALLATION, Settings.load(environ))

    printed = capsys.readouterr().out
    for shown in ("http://127.0.0.1:8080", "ibex_pat_one", "agent-1", ".ibex/proxy.log", provider):
        assert shown in printed
    assert "ibex_pat_admin" not in printed
    assert "sk-canary" not in printed


def test_a_request_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Outcome, session, tokens, timings and the directive's receipt."""
    DevConsole(".ibex").recorded(an_exchange(), journaled=True)

    (line,) = capsys.readouterr().out.splitlines()
    assert line == (
        "200  gpt-4o stream  session conversation-1  tokens 11→7  total 1234.6 ms  overhead 6.8 ms"
        "  first byte 250.0 ms  directive 3@c3c3c3c3"
    )


def test_a_refusal_says_which(capsys: pytest.CaptureFixture[str]) -> None:
    """What is not known is a dash or a question mark."""
    refused = a_refusal(error_code=ErrorCode.AGENT_SUSPENDED)
    DevConsole(".ibex").recorded(refused, journaled=False)

    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("403  -  session -  tokens ?→?")
    assert line.endswith("AGENT_SUSPENDED  not journaled")


def test_it_says_what_takes_a_moment(capsys: pytest.CaptureFixture[str]) -> None:
    """And that it ends."""
    console = DevConsole(".ibex")
    console.starting("PostgreSQL")
    console.stopping()
    console.stopped()

    starting, stopping, stopped = capsys.readouterr().out.splitlines()
    assert starting == "starting PostgreSQL ..."
    assert "Ctrl-C again" in stopping
    assert stopped == "stopped; the data stays in .ibex."
    assert console.observer is console


def test_a_model_that_a_client_has_named_is_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """And moves no cursor."""
    DevConsole(".ibex").recorded(an_exchange(model="m\n\x1b[2J\x9b\u202e"), journaled=True)

    assert capsys.readouterr().out.startswith("200  m\ufffd\ufffd[2J\ufffd\ufffd stream  session")
