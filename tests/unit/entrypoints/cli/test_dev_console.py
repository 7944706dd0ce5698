"""The output of `ibex dev` on the terminal."""

from __future__ import annotations

import ast
import json
import shlex

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
def test_the_banner_shows_address_token_agent_and_provider(
    capsys: pytest.CaptureFixture[str], environ: dict[str, str], provider: str
) -> None:
    """The administrator's token and the provider's key are never printed."""
    DevConsole(".ibex").ready("http://127.0.0.1:8080", INSTALLATION, Settings.load(environ))

    printed = capsys.readouterr().out
    for shown in ("http://127.0.0.1:8080", "ibex_pat_one", "agent-1", ".ibex/proxy.log", provider):
        assert shown in printed
    assert "ibex_pat_admin" not in printed
    assert "sk-canary" not in printed


def test_both_examples_can_be_pasted(capsys: pytest.CaptureFixture[str]) -> None:
    """The shell and Python parse them as they are, with the address and the token of this installation."""
    DevConsole(".ibex").ready("http://127.0.0.1:9000", INSTALLATION, Settings.load({"IBEX_PORT": "9000"}))

    printed = capsys.readouterr().out
    curl = shlex.split(printed[printed.index("curl ") : printed.index("\n\nOr with")].replace("\\\n", ""))
    assert curl[:2] == ["curl", "http://127.0.0.1:9000/v1/chat/completions"]
    assert "Authorization: Bearer ibex_pat_one" in curl
    assert json.loads(curl[-1])["model"]
    python = ast.parse(printed[printed.index("from openai") : printed.index("Next:")])
    texts = [node.value for node in ast.walk(python) if isinstance(node, ast.Constant)]
    assert {"http://127.0.0.1:9000/v1", "ibex_pat_one"} <= set(texts)


def test_the_banner_says_how_to_use_another_port(capsys: pytest.CaptureFixture[str]) -> None:
    """Both ways to start IBEX are named."""
    DevConsole("x", "ibex --home x").ready("http://127.0.0.1:8080", INSTALLATION, Settings.load({}))

    last = capsys.readouterr().out.rstrip().splitlines()[-1]
    assert last == 'Another port: ibex --home x dev --port 9000, or make run ARGS="--port 9000".'


def test_a_request_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """The line has the outcome, session, tokens, timings and directive receipt."""
    DevConsole(".ibex").recorded(an_exchange(), journaled=True)

    (line,) = capsys.readouterr().out.splitlines()
    assert line == (
        "200  gpt-4o stream  session conversation-1  tokens 11→7  total 1234.6 ms  overhead 6.8 ms"
        "  first byte 250.0 ms  directive 3@c3c3c3c3"
    )


def test_a_refusal_shows_its_error_code(capsys: pytest.CaptureFixture[str]) -> None:
    """Unknown values are a dash."""
    refused = a_refusal(error_code=ErrorCode.AGENT_SUSPENDED)
    DevConsole(".ibex").recorded(refused, journaled=False)

    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("403  -  session -  tokens -")
    assert line.endswith("AGENT_SUSPENDED  not journaled")


def test_a_provider_that_was_not_reached_is_named_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    """The operator learns what to check."""
    failure = "cannot connect to api.openai.com: name not resolved"
    failed = an_exchange(status=503, error_code=ErrorCode.PROVIDER_UNAVAILABLE, connect_failure=failure)
    DevConsole(".ibex").recorded(failed, journaled=True)

    assert capsys.readouterr().out.rstrip().endswith(f"PROVIDER_UNAVAILABLE  ({failure})")


def test_start_and_stop_are_announced(capsys: pytest.CaptureFixture[str]) -> None:
    """The last line says that the data stays in the folder."""
    console = DevConsole(".ibex")
    console.starting("PostgreSQL")
    console.stopping()
    console.stopped()

    starting, stopping, stopped = capsys.readouterr().out.splitlines()
    assert starting == "starting PostgreSQL ..."
    assert "Ctrl-C again" in stopping
    assert stopped == "stopped; the data stays in .ibex."
    assert console.observer is console


def test_control_characters_in_a_model_name_are_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    """A client chooses the name, which must not break the line or move the cursor."""
    DevConsole(".ibex").recorded(an_exchange(model="m\n\x1b[2J\x9b\u202e"), journaled=True)

    assert capsys.readouterr().out.startswith("200  m\ufffd\ufffd[2J\ufffd\ufffd stream  session")
