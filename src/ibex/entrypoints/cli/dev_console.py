"""The terminal output of ``ibex dev``: plain lines, so that copied commands work when they are pasted."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import rich_click as click

from ibex.adapters.telemetry.nonblocking_output import NonblockingOutput
from ibex.entrypoints.untrusted_text import sanitize_line

if TYPE_CHECKING:
    from ibex.domain.record.exchange import Exchange
    from ibex.domain.record.summary import Usage
    from ibex.entrypoints.home import FirstInstallation
    from ibex.entrypoints.settings import Settings

_GUIDE: Final = "docs/quick-start.md"
_NS_IN_MS: Final = 1_000_000
_COLOURS: Final = {2: "green", 4: "yellow", 5: "red"}
_QUESTION: Final = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "What is an ibex?"}]}


class DevConsole:
    """The terminal. It observes exchanges, and prints a line for each request."""

    def __init__(self, home: str, command: str = "ibex") -> None:
        """Take the home folder as the user gave it, and the command line for the suggestions that it prints."""
        self._home = home
        self._command = command
        self._output: NonblockingOutput | None = None
        with suppress(OSError, ValueError, AttributeError):  # a stream in memory or a closed one has no descriptor
            self._output = NonblockingOutput(sys.stdout.fileno())

    @property
    def observer(self) -> DevConsole:
        """Return the observer of exchanges."""
        return self

    def starting(self, what: str) -> None:
        """Print what is starting."""
        self._print(f"starting {what} ...")

    def ready(self, address: str, installation: FirstInstallation, settings: Settings) -> None:
        """Print the URL, the token, the provider, and commands for a first request."""
        token = installation.agent_token
        self._print(
            f"""
{click.style("IBEX is ready.", bold=True)}

  address   {address}{_port_note(address, settings)}
  token     {token}
  agent     {installation.agent_name} ({installation.agent_id}); the token works for this agent only
  provider  {_provider(settings)}
  data      {self._home} (log: {self._home}/proxy.log)

{click.style("Send a request from another terminal:", bold=True)}

curl {address}/v1/chat/completions \\
  -H 'Authorization: Bearer {token}' \\
  -H 'Content-Type: application/json' \\
  -d '{json.dumps(_QUESTION)}'

{click.style("Or with OpenAI's SDK (pip install openai); paste this into python3, or into a file:", bold=True)}

from openai import OpenAI

client = OpenAI(base_url="{address}/v1", api_key="{token}")
answer = client.chat.completions.create(
    model="gpt-4o-mini",
    messages=[{{"role": "user", "content": "What is an ibex?"}}],
)
print(answer.choices[0].message.content)

{click.style("Next:", bold=True)}

{_suggestions(self._command, installation.agent_name)}

{_guide()}Ctrl-C stops IBEX and its servers.
Another port: {self._command} dev --port 9000, or make run ARGS="--port 9000".
"""
        )

    def stopping(self) -> None:
        """Print that IBEX is stopping, and how to stop it at once."""
        self._print("stopping: requests in flight can finish; press Ctrl-C again to cancel them ...")

    def stopped(self) -> None:
        """Print that IBEX has stopped, and where its data is."""
        self._print(f"stopped; the data stays in {self._home}.")

    def _print(self, text: str) -> None:
        """Write a line without blocking: IBEX must serve and stop even if no process reads its output."""
        output = self._output
        if output is None:
            click.echo(text)
        else:
            line = text if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else click.unstyle(text)
            output.write(f"{line}\n".encode(sys.stdout.encoding or "utf-8", "replace"))

    def recorded(self, exchange: Exchange, *, journaled: bool) -> None:
        """Print one line for a request: outcome, session, tokens and timings."""
        usage, timings = exchange.summary.usage, exchange.timings
        parts = [
            click.style(str(exchange.status), fg=_COLOURS.get(exchange.status // 100)),
            f"{sanitize_line(exchange.model or '-')}{' stream' if exchange.is_streaming else ''}",
            f"session {sanitize_line(exchange.session.handle) if exchange.session else '-'}",
            f"tokens {_tokens(usage)}",
            f"total {timings.total_ns / _NS_IN_MS:.1f} ms",
            f"overhead {timings.overhead_ns / _NS_IN_MS:.1f} ms",
        ]
        if timings.provider_ttfb_ns is not None:
            parts.append(f"first byte {timings.provider_ttfb_ns / _NS_IN_MS:.1f} ms")
        if exchange.directive is not None:
            parts.append(f"directive {exchange.directive.version}@{exchange.directive.sha256[:8]}")
        if exchange.error_code is not None:
            parts.append(click.style(exchange.error_code, fg="red"))
        if exchange.connect_failure is not None:
            parts.append(f"({sanitize_line(exchange.connect_failure)})")
        if not journaled and exchange.caller is not None:
            parts.append(click.style("not journaled", fg="red"))
        self._print("  ".join(parts))

    def aggregated(self, exchange: Exchange, *, journaled: bool) -> None:
        """Print nothing: ``recorded`` prints a line for each of these requests."""


def _port_note(address: str, settings: Settings) -> str:
    """Return a note if another port is used because the one of the settings is taken, else an empty string."""
    is_other_port = settings.port != 0 and not address.endswith(f":{settings.port}{settings.base_path}")
    return f"   (port {settings.port} is taken; --port chooses another)" if is_other_port else ""


def _suggestions(command: str, agent: str) -> str:
    """Return commands to try next, each on a line that can be pasted."""
    suggested = {
        'chat "Hello"': "sends a prompt",
        "traces tail": "the latest requests",
        f"directive show {agent}": "what IBEX adds to each request",
        "doctor": "what does not work, and what to do",
    }
    width = max(map(len, suggested))
    return "\n".join(f"{command} {arguments:<{width}}  # {about}" for arguments, about in suggested.items())


def _guide() -> str:
    """Return the page to read next, which a clone has; "" for an installed wheel."""
    return f"Read {_GUIDE}. " if Path(_GUIDE).is_file() else ""


def _tokens(usage: Usage) -> str:
    if usage.input_tokens is None and usage.output_tokens is None:
        return "-"
    return f"{_count(usage.input_tokens)}→{_count(usage.output_tokens)}"


def _count(tokens: int | None) -> str:
    return "?" if tokens is None else str(tokens)


def _provider(settings: Settings) -> str:
    if settings.openai_api_key is None:
        return "echo, which returns your own message (to use OpenAI, set OPENAI_API_KEY and restart)"
    return f"OpenAI's API at {settings.openai_base_url}"
