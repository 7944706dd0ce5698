"""``ibex chat`` with unexpected or malicious responses. No output contains the token."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import httpx
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.cli_scene import CliScene, Done

SECRET = "ibex_pat_canary"
OWN = {"x-ibex-session-id": "s-1"}
ANSWER = {"choices": [{"message": {"content": "Hello"}}]}
STREAM = f"data: {json.dumps({'choices': [{'delta': {'content': 'Hello'}}]})}\n\ndata: [DONE]\n\n"
REFUSAL = {"error": {"code": "RATE_LIMITED", "message": "Too many requests.", "request_id": "r-1"}}
NO_IBEX = (
    "The server at http://127.0.0.1:8080 answered {}, but it is not IBEX."
    " Check --url, IBEX_URL, IBEX_HOST and IBEX_PORT."
)


def ask(ibex: CliScene, *arguments: str) -> Done:
    """Run ``ibex chat`` with the token, and check that the token is not printed."""
    done = ibex.run("chat", "--token", SECRET, *arguments)
    assert SECRET not in done.out + done.err
    return done


def answer_with(ibex: CliScene, *answers: Callable[[], httpx.Response]) -> list[httpx.Request]:
    """Respond with these responses in order. Return the list that collects the requests."""
    asked: list[httpx.Request] = []
    pending = list(answers)

    def answering(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return pending.pop(0)()

    ibex.transport = httpx.MockTransport(answering)
    return asked


def an_answer() -> httpx.Response:
    """Return a short stream."""
    return httpx.Response(200, headers=OWN, text=STREAM)


def a_refusal() -> httpx.Response:
    """Return an error envelope of the proxy."""
    return httpx.Response(429, json=REFUSAL)


@pytest.mark.parametrize("options", [[], ["--no-stream"]])
@pytest.mark.parametrize(
    "foreign",
    [
        httpx.Response(200, text="<html>It works!</html>"),
        httpx.Response(200, json=ANSWER),
        httpx.Response(200, text=STREAM),
        httpx.Response(200, json={"hello": "world"}),
        httpx.Response(302, headers={"location": "/login"}),
        httpx.Response(401, json={"error": "unauthorized"}),
        httpx.Response(404, json=["nothing"]),
        httpx.Response(502, text="<html>"),
    ],
    ids=["a page", "another's answer", "another's stream", "JSON", "a redirect", "a text", "a list", "a gateway"],
)
def test_a_server_other_than_ibex_is_an_error(ibex: CliScene, foreign: httpx.Response, options: list[str]) -> None:
    """The error is one line. The command shows nothing of the response and follows no redirect."""
    asked = answer_with(ibex, lambda: foreign)

    done = ask(ibex, "Hi", *options)

    assert (done.code, done.out, done.err) == (1, "", f"Error: {NO_IBEX.format(foreign.status_code)}\n")
    assert len(asked) == 1


def test_a_response_without_timings_is_accepted(ibex: CliScene) -> None:
    """A reverse proxy may remove this informative header."""
    answer_with(ibex, an_answer)

    done = ask(ibex, "Hi")

    assert (done.code, done.out, done.err) == (0, "Hello\n", "session s-1\n")


def _times_out() -> httpx.Response:
    raise httpx.ReadTimeout("slow")


def _hangs_up() -> httpx.Response:
    raise httpx.RemoteProtocolError("gone")


@pytest.mark.parametrize(
    ("failing", "name"), [(_times_out, "ReadTimeout"), (_hangs_up, "RemoteProtocolError")], ids=["slow", "gone"]
)
def test_a_failed_connection_is_a_one_line_error(
    ibex: CliScene, failing: Callable[[], httpx.Response], name: str
) -> None:
    """The line contains the address and the kind of failure."""
    answer_with(ibex, failing)

    done = ask(ibex, "Hi", "--url", "http://proxy.example:1")

    assert (done.code, done.out) == (1, "")
    (line,) = done.err.splitlines()
    assert "http://proxy.example:1" in line
    assert name in line


def test_an_invalid_address_is_wrong_usage(ibex: CliScene) -> None:
    """The error is reported before any request."""
    asked = answer_with(ibex)

    done = ask(ibex, "Hi", "--url", "http://localhost:port")

    assert done.code == 2
    assert "Invalid port" in done.err
    assert asked == []


def test_a_refusal_ends_a_conversation(ibex: CliScene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Earlier answers stay visible, and later prompts are not sent."""
    asked = answer_with(ibex, an_answer, a_refusal)
    monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo\nthree\n"))

    done = ask(ibex)

    assert (done.code, done.out) == (1, "Hello\n")
    assert "RATE_LIMITED" in done.err
    assert len(asked) == 2


def test_a_session_is_continued(ibex: CliScene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first prompt sends the given session, later ones the session that the proxy returned."""
    asked = answer_with(ibex, an_answer, an_answer)
    monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo\n"))

    assert ask(ibex, "--session", "mine", "--model", "gpt-x").code == 0

    assert [request.headers["x-ibex-session-id"] for request in asked] == ["mine", "s-1"]
    assert [json.loads(request.content)["model"] for request in asked] == ["gpt-x", "gpt-x"]


@pytest.mark.parametrize(("options", "is_streaming"), [([], True), (["--no-stream"], False)])
def test_only_a_stream_requests_usage(ibex: CliScene, options: list[str], *, is_streaming: bool) -> None:
    """A stream reports tokens only on request."""
    asked = answer_with(ibex, a_refusal)

    ask(ibex, "Hi", *options)

    body = json.loads(asked[0].content)
    assert (body["stream"], "stream_options" in body) == (is_streaming, is_streaming)


OBEYED = "\x1b]52;c;ZXZpbA==\x07\x1b[2J\x9b2J\u202etxt\u2066\u200f\u2028\x7f\r"


def test_control_characters_in_an_answer_are_replaced(ibex: CliScene) -> None:
    """This includes escape sequences that arrive in many parts."""
    parts = [json.dumps({"choices": [{"delta": {"content": part}}]}) for part in ("a\tb\n", *OBEYED, "\u6f22")]
    stream = "".join(f"data: {part}\n\n" for part in parts) + "data: [DONE]\n\n"
    whole = {"choices": [{"message": {"content": f"a\tb\n{OBEYED}\u6f22"}}]}
    answer_with(
        ibex,
        lambda: httpx.Response(200, headers=OWN, text=stream),
        lambda: httpx.Response(200, headers=OWN, json=whole),
    )
    said = [ask(ibex, "Hi").out, ask(ibex, "Hi", "--no-stream").out]
    assert said[0] == said[1]
    assert said[0].startswith("a\tb\n\ufffd]52;c;ZXZpbA==\ufffd")
    assert said[0].endswith("\u6f22\n")
    assert not set(said[0]) & (set(OBEYED) - set("]52;c;ZXZpbA==[2Jtxt"))


@pytest.mark.parametrize("in_stream", [True, False])
def test_control_characters_in_an_error_are_replaced(ibex: CliScene, *, in_stream: bool) -> None:
    """The error may be a response or an event of the stream."""
    error = {"error": {**REFUSAL["error"], "message": OBEYED}}
    answer = httpx.Response(429, json=error)
    if in_stream:
        answer = httpx.Response(200, headers=OWN, text=f"data: {json.dumps(error)}\n\n")
    answer_with(ibex, lambda: answer)
    done = ask(ibex, "Hi")
    assert done.code == 1
    assert not set(done.err) & (set(OBEYED) - set("]52;c;ZXZpbA==[2Jtxt"))
    assert "\ufffd]52;c;" in done.err
