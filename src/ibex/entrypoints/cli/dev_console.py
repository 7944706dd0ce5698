"""What ``ibex dev`` says on its terminal: plain lines, so that what is pasted from it works."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import rich_click as click

from ibex.adapters.telemetry.nonblocking_output import NonblockingOutput
from ibex.entrypoints.untrusted_text import sanitize_line

if TYPE_CHECKING:
    from ibex.domain.record.exchange import Exchange
    from ibex.entrypoints.home import FirstInstallation
    from ibex.entrypoints.settings import Settings

_NS_IN_MS: Final = 1_000_000
_COLOURS: Final = {2: "green", 4: "yellow", 5: "red"}
_QUESTION: Final = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "What is an ibex?"}]}


class DevConsole:
    """The terminal; it hears of each request itself."""

    def __init__(self, home: str, command: str = "ibex") -> None:
        """Take the folder's name, as the user gave it, and how to call the command line."""
        self._home = home
        self._command = command
        self._output: NonblockingOutput | None = None
        with suppress(OSError, ValueError, AttributeError):  # a stream in memory, or a closed one, has no descriptor
            self._output = NonblockingOutput(sys.stdout.fileno())

    @property
    def observer(self) -> DevConsole:
        """Return who hears of each request."""
        return self

    def starting(self, what: str) -> None:
        """Say what takes a moment."""
        self._say(f"starting {what} ...")

    def ready(self, address: str, installation: FirstInstallation, settings: Settings) -> None:
        """Say where it listens, with what token, who answers, and what to paste."""
        token = installation.agent_token
        self._say(
            f"""
{click.style("IBEX is ready.", bold=True)}

  address   {address}{_moved(address, settings)}
  token     {token}
  agent     {installation.agent_name} ({installation.agent_id}), which the token is bound to
  provider  {_provider(settings)}
  data      {self._home} (log: {self._home}/proxy.log)

{click.style("Paste this into another terminal:", bold=True)}

curl {address}/v1/chat/completions \\
  -H 'Authorization: Bearer {token}' \\
  -H 'Content-Type: application/json' \\
  -d '{json.dumps(_QUESTION)}'

{click.style("or this into Python (pip install openai):", bold=True)}

from openai import OpenAI

client = OpenAI(base_url="{address}/v1", api_key="{token}")
answer = client.chat.completions.create(
    model="gpt-4o-mini",
    messages=[{{"role": "user", "content": "What is an ibex?"}}],
)
print(answer.choices[0].message.content)

See also: {self._command} chat, directive show {installation.agent_name}, traces tail. Ctrl-C ends everything.
"""
        )

    def stopping(self) -> None:
        """Say that it ends, and how to end it now."""
        self._say("stopping: running requests may finish; Ctrl-C again cuts them off ...")

    def stopped(self) -> None:
        """Say that it has ended, and where what is kept is."""
        self._say(f"stopped; the data stays in {self._home}.")

    def _say(self, text: str) -> None:
        """Write a line without waiting for the reader: IBEX must serve and stop without one."""
        output = self._output
        if output is None:
            click.echo(text)
        else:
            line = text if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else click.unstyle(text)
            output.write(f"{line}\n".encode(sys.stdout.encoding or "utf-8", "replace"))

    def recorded(self, exchange: Exchange, *, journaled: bool) -> None:
        """Tell of one request in one line: outcome, session, tokens, timings."""
        usage, timings = exchange.summary.usage, exchange.timings
        parts = [
            click.style(str(exchange.status), fg=_COLOURS.get(exchange.status // 100)),
            f"{sanitize_line(exchange.model or '-')}{' stream' if exchange.is_streaming else ''}",
            f"session {sanitize_line(exchange.session.handle) if exchange.session else '-'}",
            f"tokens {_count(usage.input_tokens)}→{_count(usage.output_tokens)}",
            f"total {timings.total_ns / _NS_IN_MS:.1f} ms",
            f"overhead {timings.overhead_ns / _NS_IN_MS:.1f} ms",
        ]
        if timings.provider_ttfb_ns is not None:
            parts.append(f"first byte {timings.provider_ttfb_ns / _NS_IN_MS:.1f} ms")
        if exchange.directive is not None:
            parts.append(f"directive {exchange.directive.version}@{exchange.directive.sha256[:8]}")
        if exchange.error_code is not None:
            parts.append(click.style(exchange.error_code, fg="red"))
        if not journaled and exchange.caller is not None:
            parts.append(click.style("not journaled", fg="red"))
        self._say("  ".join(parts))

    def aggregated(self, exchange: Exchange, *, journaled: bool) -> None:
        """Print nothing: each of the requests has its own line."""


def _moved(address: str, settings: Settings) -> str:
    """Say that the port is not the one that was expected."""
    moved = settings.port != 0 and not address.endswith(f":{settings.port}")
    return f"   (port {settings.port} is taken)" if moved else ""


def _count(tokens: int | None) -> str:
    return "?" if tokens is None else str(tokens)


def _provider(settings: Settings) -> str:
    if settings.openai_api_key is None:
        return "echo, which repeats what you say (set OPENAI_API_KEY to reach OpenAI)"
    return f"OpenAI's API at {settings.openai_base_url}"
