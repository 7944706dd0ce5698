"""``ibex chat``: a prompt through the running proxy, and what became of it."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import httpx
import rich_click as click
from click.core import ParameterSource

from ibex.domain.record.sessions import is_handle
from ibex.entrypoints.cli.invocation import NothingRunsError
from ibex.entrypoints.cli.output import DotenvOption
from ibex.entrypoints.cli.tables import terminal_width, wrapped
from ibex.entrypoints.destinations import ONLY_CHAT_SENDS
from ibex.entrypoints.home import DEFAULT_HOME
from ibex.entrypoints.settings import MissingSettingError, Settings
from ibex.entrypoints.untrusted_text import sanitize, sanitize_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ibex.entrypoints.administration import Administration
    from ibex.entrypoints.cli.invocation import Invocation

_LIKE: Final = "http://127.0.0.1:8080"
_TIMEOUT_S: Final = 150.0
_OK: Final = 200
_PRINTABLE: Final = re.compile(r"[!-~]+")
_SESSION: Final = "x-ibex-session-id"
_WAYS_OUT: Final = {
    "PROVIDER_NOT_CONFIGURED": " --model takes one of those, which IBEX_OPENAI_MODELS names.",
    "MISSING_AGENT_ID": " --agent takes one of `ibex agent list`.",
}

_OF_ANOTHER: Final = frozenset({"INVALID_TOKEN", "NOT_FOUND"})
"""What a proxy says that is not the one which was meant."""


@dataclass(slots=True)
class Conversation:
    """What was said so far, and under which session."""

    client: httpx.Client
    model: str
    headers: dict[str, str]
    stream: bool
    way_out: str
    messages: list[dict[str, str]] = field(default_factory=list)
    told_session: str | None = None

    def say(self, prompt: str) -> None:
        """Send a prompt and show the answer. Raises ``click.ClickException`` with the proxy's own words."""
        for what, text in (("The prompt", prompt), ("--model", self.model)):
            if not _is_utf8(text):
                raise click.UsageError(f"{what} is not UTF-8.")
        messages = [*self.messages, {"role": "user", "content": prompt}]
        body: dict[str, Any] = {"model": self.model, "messages": messages, "stream": self.stream}
        if self.stream:
            body["stream_options"] = {"include_usage": True}
        try:
            with self.client.stream("POST", "/v1/chat/completions", json=body, headers=self.headers) as response:
                if response.status_code != _OK:
                    response.read()
                    raise _refused(response, self._asked)
                if _SESSION not in response.headers:
                    raise _no_ibex(response, self._asked)
                text, usage = self._show(response)
        except httpx.HTTPError as error:
            reason = f"No proxy answers at {self._asked} ({type(error).__name__}). {self.way_out}"
            raise click.ClickException(reason) from None
        self.messages = [*messages, {"role": "assistant", "content": text}]
        self._tell(response, usage)
        self.headers["X-IBEX-Session-ID"] = response.headers[_SESSION]

    @property
    def _asked(self) -> str:
        return str(self.client.base_url).rstrip("/")

    def _tell(self, response: httpx.Response, usage: dict[str, Any]) -> None:
        """Say what became of it; the session only where it is another one than before."""
        told = _told(response, usage)
        if self.told_session != (session := response.headers[_SESSION]):
            told = {"session": f"session {session}", **told}
            self.told_session = session
        for line in wrapped(told, terminal_width()):
            click.secho(sanitize_line(line), dim=True, err=True)

    def _show(self, response: httpx.Response) -> tuple[str, dict[str, Any]]:
        if not self.stream:
            response.read()
            answer = response.json()
            text = answer["choices"][0]["message"].get("content") or ""
            click.echo(sanitize(text))
            return text, answer.get("usage") or {}
        parts: list[str] = []
        usage: dict[str, Any] = {}
        for event in _events(response):
            if "error" in event:
                raise click.ClickException(event["error"].get("message", "The stream failed."))
            usage = event.get("usage") or usage
            for choice in event["choices"]:
                part = choice["delta"].get("content") or ""
                parts.append(part)
                sys.stdout.write(sanitize(part))  # works on single characters, so chunks can be sanitized one by one
                sys.stdout.flush()
        click.echo()
        return "".join(parts), usage


@click.command()
@click.argument("prompt", required=False)
@click.option("--model", default="gpt-4o-mini", show_default=True)
@click.option(
    "--agent",
    help="The agent's id, or its name if this command can reach the database. Default: the agent of the token.",
)
@click.option("--session", help="Record the turns under this session. Earlier turns are not sent again.")
@click.option("--no-stream", is_flag=True, help="Wait for the whole answer.")
@click.option("--org", cls=DotenvOption, envvar="IBEX_ORG", help="The organization of the named agent.")
@click.option(
    "--url",
    cls=DotenvOption,
    envvar="IBEX_URL",
    help="The proxy's address; by default what runs on the folder, or else what IBEX_HOST and IBEX_PORT say.",
)
@click.option("--token", cls=DotenvOption, envvar="IBEX_TOKEN", help="By default the folder's first agent's.")
@click.pass_obj
def chat(  # noqa: PLR0913 - an argument an option
    invocation: Invocation,
    prompt: str | None,
    model: str,
    agent: str | None,
    session: str | None,
    org: str | None,
    url: str | None,
    token: str | None,
    *,
    no_stream: bool,
) -> None:
    """Send a prompt through the proxy; without one, hold a conversation."""
    installation = invocation.home.installation()
    known = url or invocation.home.running_address()
    if known is None or (url is not None and not _is_option("url")):
        _refuse_misdirected(invocation, token)
    secret = token or (installation.agent_token if installation else None)
    if secret is None:
        raise click.UsageError(
            f"There is no token. {invocation.nothing_runs()} Or give --token, or set IBEX_TOKEN, and IBEX_URL."
        )
    if not _PRINTABLE.fullmatch(secret):
        raise click.UsageError(
            "The token (--token or IBEX_TOKEN) has characters that no token has. A token begins with ibex_pat_;"
            " `ibex token create` makes one."
        )
    if session and not is_handle(session):
        raise click.UsageError("--session takes 1 to 128 characters of A-Z a-z 0-9 . _ : -")
    headers = {"Authorization": f"Bearer {secret}"}
    if agent:
        headers["X-IBEX-Agent-ID"] = _agent_id(invocation, agent, org)
    if session:
        headers["X-IBEX-Session-ID"] = session
    address = known or _address_of_settings(invocation)
    way_out = "--url and IBEX_URL say where else to look."
    if known is None:
        way_out = f"{invocation.nothing_runs()} For one elsewhere: --url or IBEX_URL."
    base = _base_url(address)
    with httpx.Client(base_url=base, timeout=_TIMEOUT_S, transport=invocation.transport, trust_env=False) as client:
        conversation = Conversation(client, model, headers, not no_stream, way_out)
        if prompt is not None:
            conversation.say(prompt)
            return
        _converse(conversation)


def _is_utf8(text: str) -> bool:
    """Return whether text is Unicode; bytes of a command line that are not UTF-8 are lone surrogates in Python."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_option(name: str) -> bool:
    context = click.get_current_context()
    return context is not None and context.get_parameter_source(name) is ParameterSource.COMMANDLINE


def _refuse_misdirected(invocation: Invocation, token: str | None) -> None:
    """Raise ``SettingsError`` if only ``.env`` names the proxy, and the token comes from elsewhere.

    The token of the default home is exempt: like ``.env``, that home is in the current directory.
    """
    if token is None and invocation.home.path == Path(DEFAULT_HOME):
        return
    is_from_dotenv = token is not None and not _is_option("token") and not invocation.environ.get(ONLY_CHAT_SENDS)
    invocation.refuse_misdirected_token(None if is_from_dotenv else token or "the folder's")


def _agent_id(invocation: Invocation, wanted: str, org: str | None) -> str:
    """Return the id that is wanted, or that of a name. Raises ``click.UsageError`` where names cannot be looked up."""
    try:
        return str(UUID(wanted))
    except ValueError:
        pass

    async def work(use_cases: Administration) -> str:
        organization = await invocation.organization(use_cases, org)
        return str((await invocation.agent(use_cases, organization, wanted)).id)

    try:
        return invocation.administer(work)
    except (NothingRunsError, MissingSettingError):
        reason = f"--agent takes an id here, and {wanted!r} is none: the settings that names are looked up with are not"
        raise click.UsageError(f"{reason} at hand. `ibex agent list` shows the id, where they are.") from None


def _address_of_settings(invocation: Invocation) -> str:
    """Return where the settings have a proxy listen; the others of them are not for who only asks it."""
    environ = invocation.environ_of_settings()
    settings = Settings.load({name: environ[name] for name in ("IBEX_HOST", "IBEX_PORT") if name in environ})
    host = f"[{settings.host}]" if ":" in settings.host.strip("[]") else settings.host
    return f"http://{host}:{settings.port}"


def _converse(conversation: Conversation) -> None:
    """Say what is typed until the end of input; a person whose prompt has failed may go on, a script may not."""
    typed = sys.stdin.isatty()
    if typed:
        click.echo("Ctrl-D ends the conversation.", err=True)
    for line in _lines():
        try:
            conversation.say(line)
        except click.ClickException as failure:
            if not typed:
                raise
            failure.message = sanitize(failure.message)  # type: ignore[misc]  # final to subclasses
            failure.show()


def _base_url(address: str) -> httpx.URL:
    try:
        url = httpx.URL(address)
    except httpx.InvalidURL as error:
        raise click.UsageError(f"Invalid proxy URL: {error}.") from None
    if url.scheme not in {"http", "https"} or not url.host:
        raise click.UsageError(f"Invalid proxy URL {address!r}: it must look like {_LIKE}.")
    return url


def _lines() -> Iterator[str]:
    """Give out what is typed until the end of input."""
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "")
        except (EOFError, KeyboardInterrupt):
            click.echo()
            return
        if line.strip():
            yield line


def _events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in response.iter_lines():
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))


def _refused(response: httpx.Response, asked: str) -> click.ClickException:
    try:
        error = response.json()["error"]
        way_out = _WAYS_OUT.get(error["code"], "")
        if error["code"] in _OF_ANOTHER:
            way_out = f" Asked was {asked}; --url and IBEX_URL say where else to look."
        return click.ClickException(f"{error['code']}: {error['message']}{way_out} (request {error['request_id']})")
    except (ValueError, KeyError, TypeError):
        return _no_ibex(response, asked)


def _no_ibex(response: httpx.Response, asked: str) -> click.ClickException:
    return click.ClickException(f"The server at {asked} answered {response.status_code}. It is not IBEX.")


def _told(response: httpx.Response, usage: dict[str, Any]) -> dict[str, str]:
    """Return what to say of an answer; what stands between may take headers away."""
    told = {
        name: f"{name} {response.headers[header]}"
        for name, header in (("request", "x-request-id"), ("directive", "x-ibex-directive"))
        if header in response.headers
    }
    if usage:
        told["tokens"] = f"tokens {usage.get('prompt_tokens')}→{usage.get('completion_tokens')}"
    if "server-timing" in response.headers:
        told["timing"] = f"{response.headers['server-timing'].replace(';dur=', ' ')} ms"
    return told
