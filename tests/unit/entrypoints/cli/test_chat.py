"""``ibex chat``: prompts through a proxy, and the output."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from ibex.entrypoints.settings import MissingSettingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.cli_scene import CliScene

SECRET = "ibex_pat_canary"
AGENT = "0190c0de-0000-7000-8000-0000000000a1"
HEADERS = {
    "x-ibex-session-id": "s-1",
    "x-ibex-directive": "2@abcdef01",
    "x-request-id": "r-2",
    "server-timing": "auth;dur=0.100, provider;dur=9.000",
}
USAGE = {"prompt_tokens": 9, "completion_tokens": 2}


class Proxy:
    """A fake proxy that returns the given responses and records the requests."""

    def __init__(self, *answers: Callable[[], httpx.Response]) -> None:
        self.answers = list(answers)
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        """Record the request and return the next response."""
        self.asked.append(request)
        return self.answers.pop(0)()

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """The bodies of the requests."""
        return [json.loads(request.content) for request in self.asked]


def streamed(*events: dict[str, Any]) -> Callable[[], httpx.Response]:
    """Return a stream of these events."""
    text = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "id: 1\n: keep-alive\ndata: [DONE]\n\n"
    return lambda: httpx.Response(200, headers=HEADERS, content=text.encode())


def part(text: str) -> dict[str, Any]:
    """Return an event with a piece of text."""
    return {"choices": [{"delta": {"content": text}}]}


HELLO = streamed(part("Hel"), {"choices": [{"delta": {}}]}, part("lo"), {"choices": [], "usage": USAGE})


def buffered() -> httpx.Response:
    """Return a complete response."""
    answer = {"choices": [{"message": {"content": "Hello"}}], "usage": USAGE}
    return httpx.Response(200, headers=HEADERS, json=answer)


@pytest.fixture
def proxy(ibex: CliScene) -> Proxy:
    """A proxy, and a token for it in the environment."""
    answering = Proxy()
    ibex.transport = httpx.MockTransport(answering)
    return answering


@pytest.mark.parametrize(("answer", "options"), [(HELLO, []), (buffered, ["--no-stream"])])
def test_only_the_answer_is_on_standard_output(
    ibex: CliScene, proxy: Proxy, answer: Callable[[], httpx.Response], options: list[str]
) -> None:
    """Standard error has session, directive, tokens and timings. The token is never printed."""
    proxy.answers = [answer]

    done = ibex.run("chat", "Hi", "--token", SECRET, "--agent", AGENT, *options)

    assert (done.code, done.out) == (0, "Hello\n")
    for told in ("session s-1", "request r-2", "directive 2@abcdef01", "tokens 9→2", "auth 0.100", "provider 9.000 ms"):
        assert told in done.err
    assert SECRET not in done.out + done.err
    (request,) = proxy.asked
    assert request.headers["authorization"] == f"Bearer {SECRET}"
    assert request.headers["x-ibex-agent-id"] == AGENT
    assert proxy.bodies[0]["messages"] == [{"role": "user", "content": "Hi"}]


def test_a_conversation_is_one_session(ibex: CliScene, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each prompt is sent with all earlier messages and the session of the first response."""
    proxy.answers = [HELLO, HELLO]
    monkeypatch.setattr("sys.stdin", io.StringIO("one\n\ntwo\n"))

    assert ibex.run("chat", "--token", SECRET).code == 0

    roles = [[message["role"] for message in body["messages"]] for body in proxy.bodies]
    assert roles == [["user"], ["user", "assistant", "user"]]
    assert [request.headers.get("x-ibex-session-id") for request in proxy.asked] == [None, "s-1"]


RESPONSE = {
    "id": "resp_1",
    "status": "completed",
    "output": [{"type": "reasoning"}, {"type": "message", "content": [{"type": "output_text", "text": "Hello"}]}],
    "usage": {"input_tokens": 9, "output_tokens": 2},
}


def delta(text: str) -> dict[str, Any]:
    """Return an event of the Responses API with a piece of text."""
    return {"type": "response.output_text.delta", "delta": text}


def responses_stream(*, last: dict[str, Any]) -> Callable[[], httpx.Response]:
    """Return a stream of the Responses API that ends with this event."""
    return streamed({"type": "response.created", "response": {"id": "resp_1"}}, delta("Hel"), delta("lo"), last)


COMPLETED = responses_stream(last={"type": "response.completed", "response": RESPONSE})


@pytest.mark.parametrize(
    ("answer", "options"),
    [(COMPLETED, []), (lambda: httpx.Response(200, headers=HEADERS, json=RESPONSE), ["--no-stream"])],
)
def test_the_responses_api_has_the_same_output(
    ibex: CliScene, proxy: Proxy, answer: Callable[[], httpx.Response], options: list[str]
) -> None:
    """The command shows text, session, directive, tokens and timings of a stream and of a buffered response."""
    proxy.answers = [answer]

    done = ibex.run("chat", "Hi", "--responses", "--token", SECRET, *options)

    assert (done.code, done.out) == (0, "Hello\n")
    for told in ("session s-1", "request r-2", "directive 2@abcdef01", "tokens 9→2", "auth 0.100"):
        assert told in done.err
    assert proxy.asked[0].url.path == "/v1/responses"
    assert proxy.bodies == [{"model": "gpt-4o-mini", "input": "Hi", "stream": not options}]


def test_a_conversation_over_the_responses_api_names_the_previous_response(
    ibex: CliScene, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request has the new prompt only. All turns are in one session."""
    proxy.answers = [COMPLETED, COMPLETED]
    monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo\n"))

    assert ibex.run("chat", "--responses", "--token", SECRET).code == 0

    assert [(body["input"], body.get("previous_response_id")) for body in proxy.bodies] == [
        ("one", None),
        ("two", "resp_1"),
    ]
    assert [request.headers.get("x-ibex-session-id") for request in proxy.asked] == [None, "s-1"]


@pytest.mark.parametrize(
    "failure",
    [
        {"type": "response.failed", "response": {"status": "failed", "error": {"message": "The provider is gone."}}},
        {"type": "error", "code": "PROVIDER_UNAVAILABLE", "message": "The provider is gone."},
        {"type": "error", "error": {"message": "The provider is gone."}},
    ],
)
def test_a_failure_in_a_stream_of_the_responses_api(ibex: CliScene, proxy: Proxy, failure: dict[str, Any]) -> None:
    """The command shows the text that arrived and the message of the error, and exits with 1."""
    proxy.answers = [responses_stream(last=failure)]

    done = ibex.run("chat", "Hi", "--responses", "--token", SECRET)

    assert (done.code, done.out) == (1, "Hello")
    assert "The provider is gone." in done.err


def test_an_incomplete_response_says_why(ibex: CliScene, proxy: Proxy) -> None:
    """The command prints the reason on standard error, without control characters, and exits with 0."""
    end = {**RESPONSE, "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens\x1b[2J"}}
    proxy.answers = [responses_stream(last={"type": "response.incomplete", "response": end})]

    done = ibex.run("chat", "Hi", "--responses", "--token", SECRET)

    assert (done.code, done.out) == (0, "Hello\n")
    assert "The response is incomplete: max_output_tokens" in done.err
    assert "\x1b[2J" not in done.err


def test_a_prompt_that_failed_is_not_continued(ibex: CliScene, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next prompt continues the last complete response."""
    failure = {"type": "error", "message": "The provider is gone."}
    proxy.answers = [COMPLETED, responses_stream(last=failure), COMPLETED]
    monkeypatch.setattr("sys.stdin", Keyboard("one\ntwo\nthree\n"))

    ibex.run("chat", "--responses", "--token", SECRET)

    assert [body.get("previous_response_id") for body in proxy.bodies] == [None, "resp_1", "resp_1"]


def test_a_conversation_prints_its_session_once(ibex: CliScene, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request id is printed for each prompt."""
    proxy.answers = [HELLO, HELLO]
    monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo\n"))

    done = ibex.run("chat", "--token", SECRET)

    assert (done.err.count("session s-1"), done.err.count("request r-2")) == (1, 2)


class Keyboard(io.StringIO):
    """Standard input that is a terminal."""

    def isatty(self) -> bool:
        """Return true."""
        return True


@pytest.mark.parametrize(("typed", "code", "asked"), [(Keyboard, 0, 2), (io.StringIO, 1, 1)])
def test_a_failed_prompt_ends_a_conversation_only_in_scripts(
    ibex: CliScene, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, typed: type[io.StringIO], code: int, asked: int
) -> None:
    """On a terminal it continues, and the failed prompt is not sent again."""
    error = {"error": {"code": "RATE_LIMITED", "message": "Too many requests.", "request_id": "r-1"}}
    proxy.answers = [lambda: httpx.Response(429, json=error), HELLO]
    monkeypatch.setattr("sys.stdin", typed("one\ntwo\n"))

    done = ibex.run("chat", "--token", SECRET)

    assert (done.code, len(proxy.asked)) == (code, asked)
    assert "RATE_LIMITED" in done.err
    assert proxy.bodies[-1]["messages"] == [{"role": "user", "content": "two" if asked > 1 else "one"}]


@pytest.mark.parametrize("address", ["nonsense", "ftp://127.0.0.1", "127.0.0.1:8080", "http://"])
def test_an_invalid_address_is_wrong_usage(ibex: CliScene, proxy: Proxy, address: str) -> None:
    """The error is reported before any request."""
    done = ibex.run("chat", "Hi", "--token", SECRET, "--url", address)

    assert (done.code, proxy.asked) == (2, [])
    assert "http://127.0.0.1:8080" in done.err


def test_an_unknown_model_is_an_error_with_a_hint(ibex: CliScene, proxy: Proxy) -> None:
    """The proxy's own message does not mention ``--model``."""
    code = {"code": "model_not_found", "ibex_code": "PROVIDER_NOT_CONFIGURED"}
    error = {"error": {**code, "message": "No provider.", "request_id": "r-1"}}
    proxy.answers = [lambda: httpx.Response(404, json=error)]

    assert "Choose a --model" in ibex.run("chat", "Hi", "--token", SECRET).err


def test_a_refusal_shows_the_proxys_message(ibex: CliScene, proxy: Proxy) -> None:
    """It includes the error code and the request id."""
    error = {"error": {"code": "RATE_LIMITED", "message": "Too many requests.", "request_id": "r-1"}}
    proxy.answers = [lambda: httpx.Response(429, json=error)]

    done = ibex.run("chat", "Hi", "--token", SECRET)

    assert done.code == 1
    assert "RATE_LIMITED: Too many requests. (request r-1)" in done.err


@pytest.mark.parametrize(("code", "is_asked_named"), [("INVALID_TOKEN", True), ("NOT_FOUND", True), ("OTHER", False)])
def test_a_refusal_that_suggests_a_wrong_proxy_shows_its_address(
    ibex: CliScene, proxy: Proxy, code: str, *, is_asked_named: bool
) -> None:
    """The usual reason is a token of another proxy."""
    error = {"error": {"code": code, "message": "No.", "request_id": "r-1"}}
    proxy.answers = [lambda: httpx.Response(401, json=error)]

    done = ibex.run("chat", "Hi", "--token", SECRET, "--url", "http://proxy.example:1")

    assert ("The request went to http://proxy.example:1." in done.err) == is_asked_named


def test_an_error_in_the_stream_is_a_failure(ibex: CliScene, proxy: Proxy) -> None:
    """The text before it is shown, and the exit code is 1."""
    proxy.answers = [streamed(part("Hel"), {"error": {"message": "The provider is not available."}})]

    done = ibex.run("chat", "Hi", "--token", SECRET)

    assert (done.code, done.out) == (1, "Hel")
    assert "The provider is not available." in done.err


def _refuse() -> httpx.Response:
    raise httpx.ConnectError("refused")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda: httpx.Response(404, text="<html>"), "it is not IBEX"),
        (_refuse, "No proxy answers at http://127.0.0.1:8080"),
    ],
)
def test_a_missing_or_foreign_proxy_is_an_error(
    ibex: CliScene, proxy: Proxy, answer: Callable[[], httpx.Response], said: str
) -> None:
    """The error is a message without traceback or HTML."""
    proxy.answers = [answer]

    done = ibex.run("chat", "Hi", "--token", SECRET)

    assert done.code == 1
    assert said in done.err


def test_token_and_address_default_to_those_of_the_folder(ibex: CliScene, proxy: Proxy) -> None:
    """In development no option is needed."""
    assert "`ibex --home" in (refused := ibex.run("chat", "Hi")).err
    assert refused.code == 2
    ibex.install(agent_token=SECRET)
    proxy.answers = [HELLO]
    with ibex.home.claim():
        ibex.home.announce("http://127.0.0.1:4242", {})

        assert ibex.run("chat", "Hi").code == 0

    assert proxy.asked[0].url.port == 4_242
    assert proxy.asked[0].headers["authorization"] == f"Bearer {SECRET}"


@pytest.mark.parametrize(
    ("environ", "dotenv", "address"),
    [
        ({"IBEX_PORT": "9000", "IBEX_TOKEN": SECRET}, "", "http://127.0.0.1:9000"),
        ({}, f"IBEX_TOKEN={SECRET}\nIBEX_PORT=9000\nIBEX_HOST=::1\n", "http://[::1]:9000"),
        (
            {"IBEX_PORT": "9000", "IBEX_ENV": "production", "IBEX_TOKEN": SECRET},
            "IBEX_PORT=9001\n",
            "http://127.0.0.1:9000",
        ),
        ({"IBEX_PORT": "9000"}, f"IBEX_TOKEN={SECRET}\nIBEX_URL=http://proxy.example\n", "http://proxy.example"),
        ({"IBEX_BASE_PATH": "/gateway/", "IBEX_TOKEN": SECRET}, "", "http://127.0.0.1:8080/gateway"),
        ({"IBEX_URL": "http://proxy.example/gateway/", "IBEX_TOKEN": SECRET}, "", "http://proxy.example/gateway"),
    ],
)
def test_the_default_address_comes_from_the_settings(
    ibex: CliScene, proxy: Proxy, environ: dict[str, str], dotenv: str, address: str
) -> None:
    """In development this includes ``.env``. Settings that only the proxy needs are not required."""
    ibex.environ.update(environ)
    ibex.dotenv.write_text(dotenv)
    proxy.answers = [HELLO]

    assert ibex.run("chat", "Hi").code == 0

    assert str(proxy.asked[0].url) == f"{address}/v1/chat/completions"


@pytest.mark.parametrize("source", ["environment", "option", "folder"])
@pytest.mark.parametrize(
    "destination",
    ["IBEX_URL=http://proxy.example", "IBEX_HOST=proxy.example", "IBEX_PORT=9001", "IBEX_BASE_PATH=/else"],
)
def test_dotenv_cannot_redirect_a_token_of_another_source(
    ibex: CliScene, proxy: Proxy, source: str, destination: str
) -> None:
    """The command refuses to send it. An address given by ``--url`` is accepted."""
    ibex.dotenv.write_text(f"{destination}\n")
    arguments = ("--token", SECRET) if source == "option" else ()
    if source == "environment":
        ibex.environ["IBEX_TOKEN"] = SECRET
    if source == "folder":
        ibex.install(agent_token=SECRET)

    done = ibex.run("chat", "Hi", *arguments)

    assert (done.code, proxy.asked) == (2, [])
    assert f"{destination.partition('=')[0]} is in {ibex.dotenv}, but IBEX_TOKEN" in done.err
    assert SECRET not in done.err
    proxy.answers = [HELLO]
    assert ibex.run("chat", "Hi", "--url", "http://127.0.0.1:1", *arguments).code == 0
    assert proxy.asked[0].url.host == "127.0.0.1"


def test_dotenv_can_set_the_token(ibex: CliScene, proxy: Proxy) -> None:
    """The file can set this variable like any other."""
    ibex.dotenv.write_text(f"IBEX_TOKEN={SECRET}\n")
    proxy.answers = [HELLO]

    assert ibex.run("chat", "Hi").code == 0

    assert proxy.asked[0].headers["authorization"] == f"Bearer {SECRET}"


def test_an_agent_can_be_given_by_name(ibex: CliScene, proxy: Proxy) -> None:
    """The error for an unknown name lists the existing agents."""
    ibex.run("org", "create", "acme")
    made = ibex.run("agent", "create", "support", "--json").json["id"]
    proxy.answers = [HELLO]

    assert ibex.run("chat", "Hi", "--token", SECRET, "--agent", "support").code == 0
    unknown = ibex.run("chat", "Hi", "--token", SECRET, "--agent", "sales")

    assert [request.headers["x-ibex-agent-id"] for request in proxy.asked] == [made]
    assert (unknown.code, "Its agents are: support." in unknown.err) == (1, True)


def test_an_agent_name_without_a_database_is_wrong_usage(ibex: CliScene, proxy: Proxy) -> None:
    """Only an id can be given then. The error is reported before any request."""
    ibex.failure = MissingSettingError("IBEX_AUTH_DATABASE_URL is not set.")

    done = ibex.run("chat", "Hi", "--token", SECRET, "--agent", "support")

    assert (done.code, proxy.asked) == (2, [])
    assert "names cannot be looked up" in done.err
    assert "`ibex agent list`" in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["hi", "--token", "ü"], "The token (--token or IBEX_TOKEN) contains characters"),
        (["hi", "--token", "a b"], "contains characters that are not allowed in a token."),
        (["hi", "--token", "t", "--session", "ü"], "--session must be 1 to 128 characters"),
        (["a\udcffb", "--token", "t"], "The prompt is not valid UTF-8."),
        (["hi", "--token", "t", "--model", "\udcff"], "--model is not valid UTF-8."),
    ],
)
def test_invalid_input_is_wrong_usage(ibex: CliScene, proxy: Proxy, arguments: list[str], said: str) -> None:
    """The error is reported before any request."""
    done = ibex.run("chat", *arguments, "--url", "http://127.0.0.1:1")

    assert (done.code, done.out, proxy.asked) == (2, "", [])
    assert said in " ".join(done.err.replace("│", " ").split())
    assert "codec" not in done.err
