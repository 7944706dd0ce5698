"""Requests of real clients for responses and embeddings, and valid responses to them, through real sockets.

``cases/responses`` has the requests as the clients sent them. Long texts were left out, and generated ones take their
place. The answers have null or no instructions. The scripted provider repeats those that it received, as OpenAI does.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from harness.loopback import DIRECTIVE, Loopback
from harness.openai import ScriptedOpenAI
from harness.openai_wire import JSON_TYPE, SSE_TYPE, Send, answer, chunked, head

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.openai_wire import Script
    from harness.raw_http import Seen

pytestmark = pytest.mark.integration

CASES = Path(__file__).parents[1] / "cases" / "responses"
REQUESTS = sorted((CASES / "requests").glob("*.json"))
POSTS = [path for path in REQUESTS if json.loads(path.read_text())["method"] == "POST"]
OTHERS = [path for path in REQUESTS if path not in POSTS and "upgrade" not in path.name]
ANSWERS = sorted(path for path in (CASES / "answers").iterdir() if "embeddings" not in path.name)
CUTS = (1, 7, 64, 1_000_000)
LEFT_OUT = re.compile(r"<(\d+) characters left out>|<text>")
RESPONSE = re.compile(r"resp_[0-9]+")
CONNECTION_HEADERS = {"host", "content-length", "connection", "authorization", "accept-encoding"}


def named(path: Path) -> str:
    """Return the name of a case."""
    return path.name


def filled(text: str) -> str:
    """Replace the omitted texts by generated non-ASCII texts of the same length."""
    seed = random.Random(len(text))  # noqa: S311 - the same text in each run

    def generated(found: re.Match[str]) -> str:
        return "".join(seed.choices('abc xyz ÄÖ 你好 \n"\\ 🙂', k=int(found[1] or 20)))

    return LEFT_OUT.sub(generated, text)


def with_texts(value: Any) -> Any:
    """Fill all texts of a JSON value."""
    if isinstance(value, str):
        return filled(value)
    if isinstance(value, list):
        return [with_texts(one) for one in value]
    if isinstance(value, dict):
        return {name: with_texts(one) for name, one in value.items()}
    return value


def body_of(case: dict[str, Any]) -> bytes:
    """Return the body as SDKs write it: compact, not escaped."""
    return json.dumps(with_texts(case["body"]), ensure_ascii=False, separators=(",", ":")).encode()


def request_bytes(proxy: Loopback, case: dict[str, Any], path: str, body: bytes) -> bytes:
    """Return the request with the client's headers."""
    lines = [f"{case['method']} {path} HTTP/1.1", "host: ibex.test", f"authorization: Bearer {proxy.token}"]
    kept = {name: value for name, value in case["headers"].items() if name.lower() not in CONNECTION_HEADERS}
    lines += [f"{name}: {LEFT_OUT.sub('x', value)}" for name, value in kept.items()]
    lines += [f"x-request-id: {uuid4()}"]
    if case["method"] == "POST":
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    """One proxy for all cases."""
    with (
        ScriptedOpenAI.in_thread() as provider,
        Loopback.running(provider, tmp_path_factory.mktemp("journal")) as running,
    ):
        yield running


def sent(proxy: Loopback, request: bytes, *scripts: Script) -> Seen:
    """Send a request. Return the response that the client gets."""
    proxy.provider.requests.clear()
    proxy.provider.put(*scripts)
    with proxy.client() as client:
        client.send(request)
        return client.response()


def first_turn(proxy: Loopback, response_id: str) -> None:
    """Make the client receive a response with this id."""
    body = b'{"model":"gpt-5","input":"hi"}'
    response = {"id": response_id, "object": "response", "status": "completed", "model": "gpt-5", "output": []}
    script = answer(200, json.dumps(response).encode(), JSON_TYPE)
    seen = sent(proxy, proxy.head(f"content-length: {len(body)}", path="/v1/responses") + body, script)
    assert seen.status == 200


@pytest.mark.parametrize("path", POSTS, ids=named)
def test_a_request_is_forwarded_byte_for_byte(proxy: Loopback, path: Path) -> None:
    """Only the directive is added. The record has the hash of the client's text."""
    case = json.loads(path.read_text())
    body = body_of(case)
    content = json.loads(body)
    if "previous_response_id" in content:
        first_turn(proxy, content["previous_response_id"])

    seen = sent(proxy, request_bytes(proxy, case, case["path"], body))

    assert seen.status == 200
    (forwarded,) = proxy.provider.requests
    assert (forwarded.method, forwarded.path) == ("POST", case["path"])
    if case["path"] == "/v1/embeddings":
        assert forwarded.body == body
    else:
        assert "instructions" not in content
        assert forwarded.body == body[:-1] + b',"instructions":' + json.dumps(DIRECTIVE).encode() + b"}"
    exchange = proxy.record(seen.request_id)
    raw_input = json.dumps(content["input"], ensure_ascii=False, separators=(",", ":")).encode()
    assert exchange.messages_hash == hashlib.sha256(raw_input).hexdigest()
    assert exchange.is_complete
    assert (exchange.session is not None) == (case["path"] == "/v1/responses")
    if exchange.session is not None:
        expected = case["headers"].get("x-ibex-session-id") or case["headers"].get("session-id")
        assert expected in (None, exchange.session.handle)


@pytest.mark.parametrize("path", OTHERS, ids=named)
def test_a_request_for_a_stored_response_is_forwarded(proxy: Loopback, path: Path) -> None:
    """The client has received this response in an earlier turn."""
    case = json.loads(path.read_text())
    found = RESPONSE.search(case["path"])
    assert found is not None
    unknown = sent(proxy, request_bytes(proxy, case, case["path"].replace(found[0], "resp_unknown"), b""))
    assert (unknown.status, unknown.error["code"]) == (404, "previous_response_not_found")
    first_turn(proxy, found[0])
    body = json.dumps({"id": found[0], "object": "response", "status": "completed", "instructions": DIRECTIVE}).encode()

    seen = sent(proxy, request_bytes(proxy, case, case["path"], b""), answer(200, body, JSON_TYPE))

    (forwarded,) = proxy.provider.requests
    assert (forwarded.method, forwarded.path, forwarded.body) == (case["method"], case["path"], b"")
    assert seen.status == 200
    if case["method"] == "GET" and case["path"].endswith(found[0]):
        assert seen.body == body.replace(json.dumps(DIRECTIVE).encode(), b"null")
    else:
        assert seen.body == body


@pytest.mark.parametrize("own", [None, 'The client\'s own: "quoted", and 🙂.'], ids=["none", "own"])
@pytest.mark.parametrize("path", ANSWERS, ids=named)
def test_a_response_is_forwarded_byte_for_byte(proxy: Loopback, path: Path, own: str | None) -> None:
    """Only the client's instructions are restored, however the stream is split."""
    original, streams = path.read_bytes(), path.suffix == ".sse"
    asked = {"model": "gpt-5", "input": "hi", "stream": streams} | ({} if own is None else {"instructions": own})
    body = json.dumps(asked, ensure_ascii=False).encode()
    received = DIRECTIVE if own is None else f"{DIRECTIVE}\n\n{own}"
    repeated = original.replace(b'"instructions": null', b'"instructions": ' + json.dumps(received).encode())
    expected = original.replace(
        b'"instructions": null', b'"instructions": ' + json.dumps(own, ensure_ascii=False).encode()
    )
    request = proxy.head(f"content-length: {len(body)}", path="/v1/responses")
    for size in CUTS if streams else CUTS[-1:]:
        script = _streamed(repeated, size) if streams else answer(200, repeated, JSON_TYPE)
        seen = sent(proxy, request + body, script)
        assert (seen.status, seen.body) == (200, expected)
        assert json.loads(proxy.provider.requests[0].body)["instructions"] == received
        exchange = proxy.record(seen.request_id)
        assert exchange.is_complete == (path.stem not in ("failed", "error"))
        assert exchange.summary.response_id is not None
        request = proxy.head(f"content-length: {len(body)}", path="/v1/responses")


def _streamed(data: bytes, size: int) -> Script:
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    start = Send(head(200, {"content-type": SSE_TYPE, "transfer-encoding": "chunked"}))
    return (start, *(Send(chunked(piece)) for piece in pieces), Send(chunked(b"")))


@pytest.mark.parametrize("kind", ["float", "base64"])
def test_embeddings_are_forwarded_byte_for_byte(proxy: Loopback, kind: str) -> None:
    """The trace has usage, but no session and no directive, in both formats."""
    original = (CASES / "answers" / f"embeddings-{kind}.json").read_bytes()
    body = json.dumps({"model": "text-embedding-3-small", "input": ["a", "b"], "encoding_format": kind}).encode()
    request = proxy.head(f"content-length: {len(body)}", path="/v1/embeddings") + body

    seen = sent(proxy, request, answer(200, original, JSON_TYPE))

    assert (seen.status, seen.body) == (200, original)
    exchange = proxy.record(seen.request_id)
    assert (exchange.operation, exchange.session, exchange.directive) == ("embeddings", None, None)
    assert exchange.summary.usage.input_tokens == json.loads(original)["usage"]["prompt_tokens"]
    assert "x-ibex-session-id" not in seen.headers
