"""Faults of the Responses API: stored responses of others, interrupted streams, directives that a client must not see.

The provider keeps responses under one key for all organizations, so a request that it answers for the wrong caller
would leak another one's conversation (docs/adr/0050-responses.md).
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from harness.logs import logging_to
from harness.loopback import DIRECTIVE, Loopback
from harness.openai import ScriptedOpenAI
from harness.openai_responses import message_item, response_events, response_object
from harness.openai_wire import (
    JSON_TYPE,
    Close,
    Gate,
    Pause,
    Send,
    Silent,
    answer,
    chunked,
    error,
    open_stream,
    stream,
)
from ibex.adapters.http_server.client_connection import KEEP_ALIVE, Limits
from ibex.domain.proxying.streaming import MAX_TRAILING_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.openai_wire import Script
    from harness.raw_http import Seen

pytestmark = pytest.mark.integration

RESPONSES = "/v1/responses"
PIECES = ("Grüße", " an", " alle 🙂")
HASH = hashlib.sha256("".join(PIECES).encode()).hexdigest()
OWN = "canary-own-instructions"
DIRECTED = f"{DIRECTIVE}\n\n{OWN}"
NOT_FOUND_CODE = "previous_response_not_found"
ASKED: dict[str, Any] = {"model": "gpt-5", "input": "canary-input"}
LETS_GO_WITHIN_S = 1.0


def _request(proxy: Loopback, body: bytes, *more: str, path: str = RESPONSES, token: str | None = None) -> bytes:
    return proxy.head(f"content-length: {len(body)}", *more, path=path, token=token) + body


def _send(proxy: Loopback, request: bytes, *scripts: Script) -> Seen:
    proxy.provider.put(*scripts)
    with proxy.client() as client:
        client.send(request)
        return client.response()


def _ask(
    proxy: Loopback, *scripts: Script, more: tuple[str, ...] = (), token: str | None = None, **members: Any
) -> Seen:
    """Ask for a response with these members beside model and input."""
    body = json.dumps(ASKED | members).encode()
    return _send(proxy, _request(proxy, body, *more, token=token), *scripts)


def _of_stored(proxy: Loopback, method: str, path: str, *scripts: Script, token: str | None = None) -> Seen:
    length = ["content-length: 0"] if method == "POST" else []
    return _send(proxy, proxy.head(*length, path=f"{RESPONSES}/{path}", method=method, token=token), *scripts)


def _response(**members: Any) -> dict[str, Any]:
    """Return a response as the provider stores it: the instructions are those that it was sent."""
    asked = ASKED | {"instructions": DIRECTED}
    return {**response_object(asked, [message_item("".join(PIECES))]), **members}


def _received(proxy: Loopback) -> str:
    """Let the agent receive a response, and return its id."""
    seen = _ask(proxy)
    assert seen.status == 200
    proxy.provider.requests.clear()
    return str(json.loads(seen.body)["id"])


def _events_of(seen: Seen) -> list[dict[str, Any]]:
    blocks = seen.body.decode().split("\n\n")
    return [json.loads(line[6:]) for block in blocks for line in block.split("\n") if line.startswith("data: {")]


# Ownership of responses


@pytest.mark.parametrize(
    ("method", "path"), [("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")]
)
def test_the_response_of_another_organization_gets_404(proxy: Loopback, method: str, path: str) -> None:
    """The error is the same as for an unknown response. The provider knows both and gets no request."""
    known = _received(proxy)

    for response_id in (known, "resp_of_nobody"):
        seen = _of_stored(proxy, method, f"{response_id}{path}", token=proxy.neighbour_token)

        assert seen.outcome == (404, NOT_FOUND_CODE)
        assert seen.error["message"].replace(response_id, "") == "Response with id '' not found."
        assert seen.headers["x-ibex-error-source"] == "proxy"
    assert proxy.provider.requests == []


def test_another_organization_cannot_continue_a_response(proxy: Loopback) -> None:
    """The error is the same as for a response that does not exist. The record has a trace and no turn."""
    known = _received(proxy)

    seen = _ask(proxy, previous_response_id=known, token=proxy.neighbour_token)

    assert (seen.outcome, seen.error["param"]) == ((400, NOT_FOUND_CODE), "previous_response_id")
    assert proxy.provider.requests == []
    exchange = proxy.record(seen.request_id)
    assert (exchange.error_code, exchange.reached_provider) == ("RESPONSE_NOT_FOUND", False)


def test_another_agent_of_the_organization_can_only_read_a_response(proxy: Loopback) -> None:
    """Only the agent that received a response can continue it."""
    known = _received(proxy)
    as_colleague = (f"x-ibex-agent-id: {proxy.colleague}",)

    seen = _ask(proxy, previous_response_id=known, more=as_colleague, token=proxy.admin_token)

    assert seen.outcome == (400, NOT_FOUND_CODE)
    assert proxy.provider.requests == []
    head = proxy.head(*as_colleague, path=f"{RESPONSES}/{known}", method="GET", token=proxy.admin_token)
    read = _send(proxy, head, answer(200, json.dumps(_response(id=known)).encode(), JSON_TYPE))
    assert (read.status, json.loads(read.body)["instructions"]) == (200, OWN)
    assert [request.path for request in proxy.provider.requests] == [f"{RESPONSES}/{known}"]


@pytest.mark.parametrize(
    "name",
    [
        b"previous_response_id",
        b"Previous_Response_Id",
        "previou\u017f_response_id".encode(),
        b"previous\\u005fresponse_id",
    ],
)
@pytest.mark.parametrize("is_first", [True, False])
def test_a_duplicate_reference_is_refused(proxy: Loopback, name: bytes, *, is_first: bool) -> None:
    """The proxy would check one id and the provider might read the other.

    Names that differ only in case are duplicates.
    """
    known = _received(proxy)
    members = [b'"%b":"resp_of_another"' % name, b'"previous_response_id":"%b"' % known.encode()]
    if not is_first:
        members.reverse()
    body = b'{"model":"gpt-5","input":"hi",' + b",".join(members) + b"}"

    seen = _send(proxy, _request(proxy, body))

    assert seen.outcome == (400, "VALIDATION_ERROR")
    assert proxy.provider.requests == []


@pytest.mark.parametrize("name", ["Previous_Response_Id", "previou\u017f_response_id", "PREVIOUS_RESPONSE_ID"])
def test_a_reference_with_a_name_in_another_case_is_refused(proxy: Loopback, name: str) -> None:
    """A provider that ignores case would read an id that the proxy has not checked."""
    body = json.dumps(ASKED | {name: "resp_of_another"}, ensure_ascii=False).encode()
    seen = _send(proxy, _request(proxy, body))

    assert seen.outcome == (400, "VALIDATION_ERROR")
    assert proxy.provider.requests == []


def test_an_unreadable_record_gets_503_for_unknown_responses(proxy: Loopback) -> None:
    """The response has ``Retry-After`` and is not 404. Responses that the worker remembers can be continued."""
    known = _received(proxy)
    proxy.let_record_fail()
    try:
        unknown = (_ask(proxy, previous_response_id="resp_older"), _of_stored(proxy, "GET", "resp_older"))
        assert proxy.provider.requests == []
        remembered = _ask(proxy, previous_response_id=known)
    finally:
        proxy.let_record_fail(is_unreadable=False)

    for seen in unknown:
        assert seen.outcome == (503, "SERVICE_DEGRADED")
        assert int(seen.headers["retry-after"]) >= 1
    assert remembered.status == 200


@pytest.mark.parametrize("path", ["resp_1%2F..%2Fresp_2", "..", "resp_1/../resp_2", "%2e%2e", "resp_1%00", "resp%20_1"])
def test_an_invalid_response_id_is_refused(proxy: Loopback, path: str) -> None:
    """The request is refused and does not become another path at the provider."""
    seen = _of_stored(proxy, "GET", path)

    assert seen.status in {400, 404}
    assert proxy.provider.requests == []


# Sessions


def test_a_turn_that_continues_a_response_is_in_its_session(proxy: Loopback) -> None:
    """The session is that of the previous response, unless ``X-IBEX-Session-ID`` names another one."""
    first = _ask(proxy)
    previous = json.loads(first.body)["id"]

    second = _ask(proxy, previous_response_id=previous, more=("session-id: of-codex",))
    third = _ask(proxy, previous_response_id=previous, more=("x-ibex-session-id: own",))

    handles = [seen.headers["x-ibex-session-id"] for seen in (first, second, third)]
    assert handles[0] == handles[1]
    assert handles[2] == "own"
    for seen, handle in zip((first, second, third), handles, strict=True):
        session = proxy.record(seen.request_id).session
        assert session is not None
        assert session.handle == handle


@pytest.mark.parametrize(("headers", "handle"), [(("session-id: of-codex",), "of-codex"), (("session-id: a b",), None)])
def test_the_session_id_header_of_codex_names_the_session(
    proxy: Loopback, headers: tuple[str, ...], handle: str | None
) -> None:
    """``session-id`` names the session of a turn. IBEX ignores an invalid value, because the header is not its own."""
    seen = _ask(proxy, more=headers)

    assert seen.status == 200
    assert (seen.headers["x-ibex-session-id"] == handle) is (handle is not None)


# Streams


def _stream(proxy: Loopback, script: Script, **members: Any) -> Seen:
    return _ask(proxy, script, stream=True, **members)


@pytest.mark.parametrize(
    "end", [(Send(chunked(b"")),), (Close(),), (Send(chunked(b"event: x\ndata: half")), Close()), (Send(b"zz\r\n"),)]
)
def test_an_interrupted_stream_ends_with_error_events(proxy: Loopback, end: Script) -> None:
    """The client gets what arrived, then ``response.failed`` and ``error`` with the id and the next numbers."""
    response = _response()
    came = response_events(response, PIECES)[:6]

    seen = _stream(proxy, (*open_stream(*came), *end), instructions=OWN)

    *_, failed, told = _events_of(seen)
    assert (failed["type"], failed["sequence_number"]) == ("response.failed", 6)
    assert (failed["response"]["id"], failed["response"]["status"]) == (response["id"], "failed")
    assert failed["response"]["error"]["code"] == "server_error"
    assert (told["type"], told["sequence_number"], told["code"]) == ("error", 7, "PROVIDER_UNAVAILABLE")
    assert seen.body.startswith(b"".join(came).replace(json.dumps(DIRECTED).encode(), json.dumps(OWN).encode()))
    assert DIRECTIVE.encode() not in seen.body
    exchange = proxy.record(seen.request_id)
    assert (exchange.status, exchange.error_code, exchange.is_complete) == (503, "PROVIDER_UNAVAILABLE", False)
    assert exchange.summary.completion_hash == hashlib.sha256("".join(PIECES[:2]).encode()).hexdigest()


def test_a_failure_event_of_the_provider_is_forwarded_once(proxy: Loopback) -> None:
    """The client gets the provider's own event, once. The record says that the stream failed."""
    failed = _response(status="failed", output=[], error={"code": "server_error", "message": "canary"}, usage=None)
    events = [*response_events(_response(), PIECES)[:6], *response_events(_with_message(failed), ())[-1:]]

    seen = _stream(proxy, stream(*events), instructions=OWN)

    assert [event["type"] for event in _events_of(seen)].count("response.failed") == 1
    assert _events_of(seen)[-1]["response"]["instructions"] == OWN
    assert not proxy.record(seen.request_id).is_complete


def _with_message(response: dict[str, Any]) -> dict[str, Any]:
    return response | {"output": [message_item("")]}


@pytest.mark.parametrize("rest", [(), (b"data: [DONE]\n\n",), (b": bye\n\n", b"event: error\ndata: {}\n\n")])
def test_events_after_the_end_are_forwarded(proxy: Loopback, rest: tuple[bytes, ...]) -> None:
    """Servers send different ones. The turn is complete without them."""
    events = response_events(_response(), PIECES)

    seen = _stream(proxy, stream(*events, *rest), instructions=OWN)

    assert seen.body.endswith(b"".join(rest))
    exchange = proxy.record(seen.request_id)
    assert (exchange.is_complete, exchange.summary.completion_hash) == (True, HASH)
    assert exchange.summary.usage.total_tokens == 11


def test_a_stream_that_stays_open_after_its_end_is_closed(proxy: Loopback) -> None:
    """The response to the client ends, and the connection to the provider is closed."""
    seen = _stream(proxy, (*open_stream(*response_events(_response(), PIECES)), Silent()))

    assert _events_of(seen)[-1]["type"] == "response.completed"
    assert proxy.record(seen.request_id).is_complete
    proxy.provider.see(proxy.provider.requests[0].closed_at())


def test_a_client_that_leaves_a_stream_cancels_its_provider_request(proxy: Loopback) -> None:
    """The cancellation takes less than a second. The turn is recorded as incomplete."""
    events = response_events(_response(), PIECES)
    proxy.provider.put((*open_stream(*events[:6]), Silent()))
    request_id = uuid4()
    body = json.dumps(ASKED | {"stream": True}).encode()
    with proxy.client() as client:
        client.send(proxy.head(f"content-length: {len(body)}", path=RESPONSES, request_id=request_id) + body)
        client.read_head()
        next(client.chunks())
        asked = proxy.provider.see(proxy.provider.request(1))
        left_at = time.monotonic()
        client.close()
        assert proxy.provider.see(asked.closed_at()) - left_at < LETS_GO_WITHIN_S
    exchange = proxy.record(request_id)
    assert (exchange.status, exchange.error_code, exchange.is_complete) == (499, "CLIENT_CLOSED_REQUEST", False)


@pytest.fixture
def attentive(tmp_path: Path) -> Iterator[Loopback]:
    """A proxy that sends a comment after 50 ms of silence."""
    with (
        ScriptedOpenAI.in_thread() as provider,
        Loopback.running(provider, tmp_path, Limits(keep_alive_s=0.05)) as proxy,
    ):
        yield proxy
        proxy.assert_healthy()


def test_comments_fill_a_pause_of_the_provider(attentive: Loopback) -> None:
    """The client gets comments between events, never within one. The events do not change."""
    gate = Gate()
    events = response_events(_response(instructions=None), PIECES)
    whole, cut = b"".join(events), len(b"".join(events[:4])) + 30
    first, last = (Send(chunked(part)) for part in (whole[:cut], whole[cut:]))
    attentive.provider.put((*open_stream(), first, Pause(gate), last, Send(chunked(b""))))
    body = json.dumps(ASKED | {"stream": True}).encode()
    received = b""
    with attentive.client() as client:
        client.send(_request(attentive, body))
        client.read_head()
        for chunk in client.chunks():
            received += chunk
            if received.count(KEEP_ALIVE) == 2:
                gate.open()

    assert received.count(KEEP_ALIVE) >= 2
    assert received.replace(KEEP_ALIVE, b"") == whole
    assert received.startswith(b"".join(events[:4]) + KEEP_ALIVE)


# Secrecy of the directive


def _has_access_line(lines: io.StringIO, request_id: str) -> bool:
    """Return whether a request has its access line. Lines of other requests may be among them."""
    return any("ibex.access" in line and request_id in line for line in lines.getvalue().splitlines())


@pytest.mark.parametrize("own", [OWN, None, ""])
def test_only_the_provider_gets_the_directive(proxy: Loopback, own: str | None) -> None:
    """No body, stream, stored response or header for the client contains it.

    No log line, metric or trace does either.
    """
    lines = io.StringIO()
    with logging_to(lines, "debug"):
        body = _ask(proxy, instructions=own)
        streamed = _ask(proxy, stream=True, instructions=own)
        known = json.loads(body.body)["id"]
        sent = proxy.provider.requests[0].json()["instructions"]
        stored = json.dumps(_response(id=known) | {"instructions": sent}).encode()
        read = _of_stored(proxy, "GET", known, answer(200, stored, JSON_TYPE))
        events = response_events(json.loads(stored), PIECES)
        read_as_stream = _of_stored(proxy, "GET", f"{known}?stream=true", stream(*events))
        refused = _ask(proxy, previous_response_id="resp_of_nobody", instructions=own)
        for seen in (body, streamed, read, read_as_stream, refused):
            proxy.record(seen.request_id)
            proxy.wait_for(partial(_has_access_line, lines, str(seen.request_id)))

    assert sent == (f"{DIRECTIVE}\n\n{own}" if own else DIRECTIVE)
    shown = [json.loads(body.body)["instructions"], json.loads(read.body)["instructions"]]
    for seen in (streamed, read_as_stream):
        shown += [event["response"]["instructions"] for event in _events_of(seen) if "response" in event]
    assert len(shown) == 8
    assert set(shown) <= {own, own or None}
    exposed = [lines.getvalue(), proxy.metrics(), str(proxy.traces())]
    for seen in (body, streamed, read, read_as_stream, refused):
        exposed += [seen.body.decode(), str(seen.headers)]
    for text in exposed:
        assert DIRECTIVE not in text
    assert "canary" not in "".join(exposed[:3])


@pytest.mark.parametrize("size", [1 << 16, 1 << 22, 9 << 20])
def test_the_directive_is_removed_from_a_large_event(proxy: Loopback, size: int) -> None:
    """IBEX rewrites an event that it cannot buffer while it forwards the event."""
    image = {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": "A" * size}
    large = _response(output=[message_item("".join(PIECES)), image])
    moved = {**{name: value for name, value in large.items() if name != "instructions"}, "instructions": DIRECTED}
    for response in (large, moved):
        *events, _ = response_events(_response(), PIECES)
        last = response_events(response, PIECES)[-1]

        seen = _stream(proxy, stream(*events, last), instructions=OWN)

        assert DIRECTIVE.encode() not in seen.body
        expected = b"".join((*events, last)).replace(json.dumps(DIRECTED).encode(), json.dumps(OWN).encode())
        assert hashlib.sha256(seen.body).hexdigest() == hashlib.sha256(expected).hexdigest()
        exchange = proxy.record(seen.request_id)
        assert (exchange.is_complete, exchange.summary.usage.total_tokens) == (True, 11)
        assert exchange.summary.completion_hash == HASH


# Reported faults


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("GET", "?stream=true"), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")],
)
def test_a_client_that_leaves_a_stored_response_cancels_its_provider_request(
    proxy: Loopback, method: str, path: str
) -> None:
    """The cancellation takes less than a second. The request is recorded with 499."""
    response_id, request_id = _received(proxy), uuid4()
    proxy.provider.put((Silent(),))
    length = ["content-length: 0"] if method == "POST" else []
    with proxy.client() as client:
        client.send(proxy.head(*length, path=f"{RESPONSES}/{response_id}{path}", method=method, request_id=request_id))
        asked = proxy.provider.see(proxy.provider.request())
        left_at = time.monotonic()
    assert proxy.provider.see(asked.closed_at()) - left_at < LETS_GO_WITHIN_S
    assert proxy.record(request_id).status == 499


def test_endless_data_after_the_end_is_cut_off(proxy: Loopback) -> None:
    """The client's response ends after a second, although the provider continues to send."""
    *events, last = response_events(_response(), PIECES)
    endless = chunked(b": x\n\n" * 10_000)
    proxy.provider.put((*open_stream(*events, last), *([Send(endless)] * 2_000)))
    began = time.monotonic()
    body = json.dumps(ASKED | {"stream": True}).encode()
    with proxy.client() as client:
        client.send(_request(proxy, body))
        seen = client.response()
    assert time.monotonic() - began < 5 * MAX_TRAILING_S
    assert proxy.record(seen.request_id).is_complete


@pytest.mark.parametrize("last", [b'{"type":"\xff"}', b'{"type":[]}'])
def test_an_invalid_last_event_makes_the_stream_incomplete(proxy: Loopback, last: bytes) -> None:
    """In both APIs, the record names it as the provider's failure."""
    for path, asked in (
        (RESPONSES, ASKED),
        ("/v1/chat/completions", {"model": "gpt-4o", "messages": [{"role": "user"}]}),
    ):
        body = json.dumps(asked | {"stream": True}).encode()
        seen = _send(proxy, _request(proxy, body, path=path), stream(b"data: " + last + b"\n\n"))
        exchange = proxy.record(seen.request_id)
        assert (exchange.status, exchange.error_code) == (503, "PROVIDER_UNAVAILABLE")


def test_a_refusal_that_repeats_the_directive_loses_its_message(proxy: Loopback) -> None:
    """The client gets the provider's code and parameter, and a message of IBEX."""
    message = f"1 validation error: input_value={{'instructions': {DIRECTED!r}}}"
    seen = _ask(proxy, error(400, message, code="invalid_value", param="input"), instructions=OWN)

    assert DIRECTIVE not in seen.body.decode()
    assert (seen.status, seen.error["code"], seen.error["param"]) == (400, "invalid_value", "input")
    assert seen.error["message"] == "The provider refused the request."


def test_a_stream_without_the_last_blank_line_is_complete(proxy: Loopback) -> None:
    """The client sees its own instructions and not the directive."""
    events = response_events(_response(), PIECES)
    events[-1] = events[-1].rstrip(b"\n")
    seen = _ask(proxy, stream(*events), instructions=OWN, stream=True)

    assert DIRECTIVE not in seen.body.decode()
    assert proxy.record(seen.request_id).is_complete
