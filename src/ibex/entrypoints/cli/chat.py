"""``ibex chat``: sends prompts through a proxy, and prints the responses and their receipts."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import httpx
import rich_click as click
from click.core import ParameterSource

from ibex.domain.record.sessions import is_valid_handle
from ibex.entrypoints.cli.chat_formats import Answer, ChatFormat, FailedResponseError, ResponsesFormat
from ibex.entrypoints.cli.invocation import NoInstanceError
from ibex.entrypoints.cli.output import DotenvOption
from ibex.entrypoints.cli.tables import terminal_width, wrapped
from ibex.entrypoints.destinations import ONLY_CHAT_SENDS
from ibex.entrypoints.home import DEFAULT_HOME
from ibex.entrypoints.settings import MissingSettingError, Settings
from ibex.entrypoints.untrusted_text import sanitize, sanitize_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ibex.entrypoints.administration import Administration
    from ibex.entrypoints.cli.chat_formats import WireFormat
    from ibex.entrypoints.cli.invocation import Invocation

_ADDRESS: Final = ("IBEX_HOST", "IBEX_PORT", "IBEX_BASE_PATH")
_EXAMPLE_URL: Final = "http://127.0.0.1:8080"
_TIMEOUT_S: Final = 150.0
_OK: Final = 200
_PRINTABLE: Final = re.compile(r"[!-~]+")
_SESSION: Final = "x-ibex-session-id"
_HINTS: Final = {
    "PROVIDER_NOT_CONFIGURED": " Choose a --model that matches IBEX_OPENAI_MODELS.",
    "MISSING_AGENT_ID": " Choose an --agent from `ibex agent list`.",
}

_WRONG_PROXY_CODES: Final = frozenset({"INVALID_TOKEN", "NOT_FOUND"})
"""Error codes that often mean that the request went to another proxy than intended."""


@dataclass(slots=True)
class Conversation:
    """A conversation with a model: its turns so far, its session, and the connection to the proxy."""

    client: httpx.Client
    wire_format: WireFormat
    headers: dict[str, str]
    stream: bool
    hint: str
    printed_session: str | None = None

    def send(self, prompt: str) -> None:
        """Send a prompt and print the response. Raises ``click.ClickException`` with the message of the proxy."""
        if not _is_utf8(prompt):
            raise click.UsageError("The prompt is not valid UTF-8.")
        path, body = self.wire_format.path, self.wire_format.request(prompt, stream=self.stream)
        try:
            with self.client.stream("POST", path, json=body, headers=self.headers) as response:
                if response.status_code != _OK:
                    response.read()
                    raise _error_of(response, self._url)
                if _SESSION not in response.headers:
                    raise _not_ibex(response, self._url)
                answer = self._show(response)
        except httpx.HTTPError as error:
            reason = f"No proxy answers at {self._url} ({type(error).__name__}). {self.hint}"
            raise click.ClickException(reason) from None
        except FailedResponseError as failure:
            raise click.ClickException(str(failure)) from None
        self.wire_format.add_turn(prompt, answer)
        self._print_receipt(response, answer)
        self.headers["X-IBEX-Session-ID"] = response.headers[_SESSION]

    @property
    def _url(self) -> str:
        return str(self.client.base_url).rstrip("/")

    def _print_receipt(self, response: httpx.Response, answer: Answer) -> None:
        """Print the ids, tokens and timings of a response on standard error; the session only when it changes."""
        if answer.cut_off is not None:
            click.secho(f"The response is incomplete: {sanitize_line(answer.cut_off)}.", fg="yellow", err=True)
        receipt = _receipt(response, answer)
        if self.printed_session != (session := response.headers[_SESSION]):
            receipt = {"session": f"session {session}", **receipt}
            self.printed_session = session
        for line in wrapped(receipt, terminal_width()):
            click.secho(sanitize_line(line), dim=True, err=True)

    def _show(self, response: httpx.Response) -> Answer:
        if not self.stream:
            response.read()
            answer = self.wire_format.read_body(response.json())
            click.echo(sanitize(answer.text))
            return answer
        answer = Answer()
        for event in _events(response):
            text = self.wire_format.read_event(event, answer)
            sys.stdout.write(sanitize(text))  # works on single characters, so each part can be sanitized by itself
            sys.stdout.flush()
        click.echo()
        return answer


@click.command()
@click.argument("prompt", required=False)
@click.option("--model", default="gpt-4o-mini", show_default=True, help="The model to ask.")
@click.option(
    "--agent",
    help="The id of the agent, or its name if this command can reach the database. Default: the agent of the token.",
)
@click.option("--session", help="Record the turns under this session. Earlier turns are not sent again.")
@click.option(
    "--responses",
    is_flag=True,
    help="Use the Responses API (/v1/responses) instead of chat completions. The provider stores the responses, and "
    "each prompt continues the one before it.",
)
@click.option("--no-stream", is_flag=True, help="Wait for the whole response instead of streaming it.")
@click.option("--org", cls=DotenvOption, envvar="IBEX_ORG", help="Id or name of the organization of the agent.")
@click.option(
    "--url",
    cls=DotenvOption,
    envvar="IBEX_URL",
    help="The URL of the proxy. Default: the instance in the home folder, else the proxy at IBEX_HOST and IBEX_PORT, "
    "with IBEX_BASE_PATH.",
)
@click.option(
    "--token",
    cls=DotenvOption,
    envvar="IBEX_TOKEN",
    help="The token to send. Default: that of the first agent in the home folder.",
)
@click.pass_obj
def chat(  # noqa: PLR0913 - one argument for each option
    invocation: Invocation,
    prompt: str | None,
    model: str,
    agent: str | None,
    session: str | None,
    org: str | None,
    url: str | None,
    token: str | None,
    *,
    responses: bool,
    no_stream: bool,
) -> None:
    """Send a prompt through the proxy. Without a prompt, start a conversation."""
    installation = invocation.home.installation()
    known = url or invocation.home.running_address()
    if known is None or (url is not None and not _is_option("url")):
        _refuse_misdirected(invocation, token)
    secret = token or (installation.agent_token if installation else None)
    if secret is None:
        raise click.UsageError(
            f"No token was found. {invocation.no_instance()} For a proxy elsewhere, set IBEX_URL and IBEX_TOKEN."
        )
    if not _PRINTABLE.fullmatch(secret):
        raise click.UsageError(
            "The token (--token or IBEX_TOKEN) contains characters that are not allowed in a token. A token begins with"
            " ibex_pat_. Create one with `ibex token create`."
        )
    if session and not is_valid_handle(session):
        raise click.UsageError("--session must be 1 to 128 characters of A-Z a-z 0-9 . _ : -")
    if not _is_utf8(model):
        raise click.UsageError("--model is not valid UTF-8.")
    headers = {"Authorization": f"Bearer {secret}"}
    if agent:
        headers["X-IBEX-Agent-ID"] = _agent_id(invocation, agent, org)
    if session:
        headers["X-IBEX-Session-ID"] = session
    address = known or _address_of_settings(invocation)
    hint = "Check that it runs, or choose another proxy with --url or IBEX_URL."
    if known is None:
        hint = f"{invocation.no_instance()} For a proxy elsewhere, set --url or IBEX_URL."
    base = _base_url(address)
    with httpx.Client(base_url=base, timeout=_TIMEOUT_S, transport=invocation.transport, trust_env=False) as client:
        wire_format = ResponsesFormat(model) if responses else ChatFormat(model)
        conversation = Conversation(client, wire_format, headers, not no_stream, hint)
        if prompt is not None:
            conversation.send(prompt)
            return
        _converse(conversation)


def _is_utf8(text: str) -> bool:
    """Return whether a text can be encoded. Python decodes invalid bytes of the command line as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_option(name: str) -> bool:
    context = click.get_current_context()
    return context is not None and context.get_parameter_source(name) is ParameterSource.COMMANDLINE


def _refuse_misdirected(invocation: Invocation, token: str | None) -> None:
    """Raise ``SettingsError`` if ``.env`` alone decides which proxy gets a token that is not in ``.env``.

    The token of the default home folder is exempt: like ``.env``, that folder is in the current directory.
    """
    if token is None and invocation.home.path == Path(DEFAULT_HOME):
        return
    is_from_dotenv = token is not None and not _is_option("token") and not invocation.environ.get(ONLY_CHAT_SENDS)
    invocation.refuse_misdirected_token(None if is_from_dotenv else token or "the folder's")


def _agent_id(invocation: Invocation, wanted: str, org: str | None) -> str:
    """Return the id of an agent, given by id or name. Raises ``click.UsageError`` if names cannot be looked up."""
    try:
        return str(UUID(wanted))
    except ValueError:
        pass

    async def work(use_cases: Administration) -> str:
        organization = await invocation.organization(use_cases, org)
        return str((await invocation.agent(use_cases, organization, wanted)).id)

    try:
        return invocation.administer(work)
    except (NoInstanceError, MissingSettingError):
        reason = f"--agent {wanted!r} is not an id, and names cannot be looked up without the database settings."
        raise click.UsageError(f"{reason} Give the id, which `ibex agent list` shows on the server.") from None


def _address_of_settings(invocation: Invocation) -> str:
    """Return the URL of the proxy that the settings describe. Other settings are not read, so they can be invalid."""
    environ = invocation.environ_of_settings()
    settings = Settings.load({name: environ[name] for name in _ADDRESS if name in environ})
    host = f"[{settings.host}]" if ":" in settings.host.strip("[]") else settings.host
    return f"http://{host}:{settings.port}{settings.base_path}"


def _converse(conversation: Conversation) -> None:
    """Send each line of standard input as a prompt. A failure ends the conversation unless the input is a terminal."""
    is_interactive = sys.stdin.isatty()
    if is_interactive:
        click.echo("Press Ctrl-D to end the conversation.", err=True)
    for line in _lines():
        try:
            conversation.send(line)
        except click.ClickException as failure:
            if not is_interactive:
                raise
            failure.message = sanitize(failure.message)  # type: ignore[misc]  # final to subclasses
            failure.show()


def _base_url(address: str) -> httpx.URL:
    try:
        url = httpx.URL(address)
    except httpx.InvalidURL as error:
        raise click.UsageError(f"Invalid proxy URL: {error}. It must look like {_EXAMPLE_URL}.") from None
    if url.scheme not in {"http", "https"} or not url.host:
        raise click.UsageError(f"Invalid proxy URL {address!r}. It must look like {_EXAMPLE_URL}.")
    return url


def _lines() -> Iterator[str]:
    """Yield the lines of standard input that are not blank."""
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


def _error_of(response: httpx.Response, url: str) -> click.ClickException:
    try:
        error = response.json()["error"]
        code = error["code"]
        hint = _HINTS.get(error.get("ibex_code", code), "")
        if code in _WRONG_PROXY_CODES:
            hint = f" The request went to {url}. For another proxy, use --url or IBEX_URL."
        return click.ClickException(f"{code}: {error['message']}{hint} (request {error['request_id']})")
    except (ValueError, KeyError, TypeError):
        return _not_ibex(response, url)


def _not_ibex(response: httpx.Response, url: str) -> click.ClickException:
    reason = f"The server at {url} answered {response.status_code}, but it is not IBEX."
    return click.ClickException(f"{reason} Check --url, IBEX_URL, IBEX_HOST and IBEX_PORT.")


def _receipt(response: httpx.Response, answer: Answer) -> dict[str, str]:
    """Return the parts of the receipt by name. Headers that an intermediary removed are omitted."""
    receipt = {
        name: f"{name} {response.headers[header]}"
        for name, header in (("request", "x-request-id"), ("directive", "x-ibex-directive"))
        if header in response.headers
    }
    if answer.input_tokens is not None or answer.output_tokens is not None:
        receipt["tokens"] = f"tokens {answer.input_tokens}→{answer.output_tokens}"
    if "server-timing" in response.headers:
        receipt["timing"] = f"{response.headers['server-timing'].replace(';dur=', ' ')} ms"
    return receipt
