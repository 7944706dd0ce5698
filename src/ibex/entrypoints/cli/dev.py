"""``ibex dev``: what it prints, and how it is started."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import rich_click as click
from click.exceptions import Exit

from ibex.entrypoints.cli.main import cli

if TYPE_CHECKING:
    from ibex.domain.exchange import Exchange
    from ibex.entrypoints.home import FirstInstallation, Home
    from ibex.entrypoints.settings import Settings

NS_IN_MS = 1_000_000


class DevConsole:
    """The terminal of ``ibex dev``; plain lines, so that a pasted command is the command."""

    @property
    def observer(self) -> DevConsole:
        """Return who hears of each request: the console itself."""
        return self

    def starting(self, what: str) -> None:
        """Say what takes a moment."""
        _say(f"starting {what} ...")

    def ready(self, address: str, installation: FirstInstallation, settings: Settings) -> None:
        """Print where it listens, with what token, and what to paste."""
        body = json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "What is an ibex?"}]})
        if settings.openai_api_key is None:
            provider = "echo, which says what you said (set OPENAI_API_KEY to reach OpenAI)"
        else:
            provider = f"OpenAI's API at {settings.openai_base_url}"
        _say(
            f"""
IBEX is ready.

  address   {address}
  token     {installation.agent_token}
  agent     {installation.agent_name} ({installation.agent_id}), which the token is bound to
  provider  {provider}

curl {address}/v1/chat/completions \\
  -H 'Authorization: Bearer {installation.agent_token}' \\
  -H 'Content-Type: application/json' \\
  -d '{body}'

from openai import OpenAI
client = OpenAI(base_url="{address}/v1", api_key="{installation.agent_token}")
answer = client.chat.completions.create(
    model="gpt-4o-mini", messages=[{{"role": "user", "content": "What is an ibex?"}}]
)
print(answer.choices[0].message.content)

Ctrl-C ends it. In another terminal: ibex chat, ibex traces tail, ibex directive show assistant.
"""
        )

    def stopping(self) -> None:
        """Say that it ends."""
        _say("stopping ...")

    def settled(self, exchange: Exchange, *, journaled: bool) -> None:  # noqa: ARG002 - an ExchangeObserver's
        """Print one line for a request."""
        usage, timings = exchange.summary.usage, exchange.timings
        tokens = "-" if usage.input_tokens is None else f"{usage.input_tokens}→{usage.output_tokens}"
        session = exchange.session.handle if exchange.session else "-"
        _say(
            f"{exchange.status} {exchange.model or '-'} session {session} tokens {tokens}"
            f" total {timings.total_ns / NS_IN_MS:.1f} ms overhead {timings.overhead_ns / NS_IN_MS:.2f} ms"
            + (f" {exchange.error_code}" if exchange.error_code else "")
        )


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


@cli.command()
@click.option("--host", help="The address to listen on; else IBEX_HOST.")
@click.option("--port", help="The port; else IBEX_PORT. 0 takes any free one.")
@click.option("--echo-delay", help="Seconds that the echo thinks; else IBEX_ECHO_DELAY.")
@click.pass_obj
def dev(home: Home, host: str | None, port: str | None, echo_delay: str | None) -> None:
    """Start IBEX with everything it needs, embedded, on one folder."""
    from ibex.entrypoints.embedded import run  # noqa: PLC0415 - keeps --help quick

    chosen = {"IBEX_HOST": host, "IBEX_PORT": port, "IBEX_ECHO_DELAY": echo_delay}
    code = run(home, {**os.environ, **{name: value for name, value in chosen.items() if value}}, DevConsole())
    raise Exit(code)
