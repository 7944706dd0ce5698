"""Malformed, hostile or too large requests (docs/faults.md), through the whole proxy.

IBEX checks a body after authenticating its caller, so a refused body is recorded. Invalid HTTP has no known caller and
no record. A refused request never reaches the provider.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from harness.loopback import DIRECTIVE, REQUEST, Loopback, resident_kib
from harness.openai_wire import completion, completion_body

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.raw_http import RawClient, Seen

pytestmark = pytest.mark.integration

MOST = 10 * 1024 * 1024
ROOM_KIB = 200 << 10
"""What a refusal may take, many copies of the largest body included: in this process client and provider are, too."""
BODY = json.dumps(REQUEST).encode()
DIGITS = b"1" * 10_000
WRONG = (400, "VALIDATION_ERROR")
NO_JSON = (400, "INVALID_JSON")


def with_member(name: bytes, value: bytes) -> bytes:
    """Return the body with one more member."""
    return BODY[:-1] + b',"%s":%s}' % (name, value)


def nested(depth: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    """Return JSON of this depth."""
    return opening * depth + closing * depth


def filled(unit: bytes) -> bytes:
    """Return an array with as many of the unit as fit into a body."""
    return b"[" + unit * ((MOST - 4_096) // len(unit)) + b"0]"


REFUSED: dict[str, tuple[bytes, tuple[int, str]]] = {
    "empty": (b"", NO_JSON),
    "blank": (b" \n", NO_JSON),
    "not UTF-8": (BODY.replace(b"canary", b"\xff\xfe"), NO_JSON),
    "UTF-16": (BODY.decode().encode("utf-16"), NO_JSON),
    "a byte order mark": (b"\xef\xbb\xbf" + BODY, NO_JSON),
    "not JSON": (b"model=gpt-4o", NO_JSON),
    "cut": (BODY[:-1], NO_JSON),
    "two documents": (BODY * 2, NO_JSON),
    "a comment": (BODY.replace(b"{", b"{/**/", 1), NO_JSON),
    "NaN": (with_member(b"temperature", b"NaN"), NO_JSON),
    "an array": (b"[" + BODY + b"]", NO_JSON),
    "null": (b"null", NO_JSON),
    "a string": (b'"' + b"x" * 100 + b'"', NO_JSON),
    "a raw NUL in a string": (BODY.replace(b"canary", b"\x00"), NO_JSON),
    "only NULs": (b"\x00" * 1_000, NO_JSON),
    "a lone surrogate in a key": (with_member(b"\\ud800", b"1"), NO_JSON),
    "a lone surrogate in the model": (BODY.replace(b"gpt-4o", b"\\ud800"), NO_JSON),
    "a NUL in the model": (BODY.replace(b"gpt-4o", b"gpt-4o\\u0000"), WRONG),
    "arrays 100,000 deep": (with_member(b"x", nested(100_000)), WRONG),
    "arrays 100,000 deep, not closed": (b'{"x":' + b"[" * 100_000, WRONG),
    "objects 100,000 deep": (with_member(b"x", nested(100_000, b'{"a":', b"}").replace(b":}", b":1}")), WRONG),
    "a message 100,000 deep": (BODY.replace(b'"canary-prompt"', nested(100_000)), WRONG),
    "65 deep": (with_member(b"x", nested(64)), WRONG),
    "a temperature of 10,000 digits": (with_member(b"temperature", DIGITS), WRONG),
    "a temperature of 1e999999999": (with_member(b"temperature", b"1e999999999"), WRONG),
    "max_tokens of 10,000 digits": (with_member(b"max_tokens", DIGITS), WRONG),
    "max_tokens as a fraction": (with_member(b"max_tokens", b"1.5"), WRONG),
    "max_completion_tokens as a text": (with_member(b"max_completion_tokens", b'"1"'), WRONG),
    "the model twice": (with_member(b"model", b'"gpt-4o-mini"'), WRONG),
    "the model twice, once escaped": (with_member(b"m\\u006fdel", b'"gpt-4o-mini"'), WRONG),
    "messages twice": (with_member(b"messages", b"[]"), WRONG),
    "stream twice": (BODY[:-1] + b',"stream":false,"stream":true}', WRONG),
    "a role twice": (BODY.replace(b'"role": "user"', b'"role": "user", "role": "system"'), WRONG),
    "stream as a string": (with_member(b"stream", b'"true"'), WRONG),
    "no messages": (b'{"model":"gpt-4o","messages":[]}', WRONG),
    "4,097 messages": (json.dumps(REQUEST | {"messages": REQUEST["messages"] * 4_097}).encode(), WRONG),
    "millions of messages": (b'{"model":"gpt-4o","messages":[' + b"0," * 4_000_000 + b"0]}", WRONG),
    "a million members": (b"{" + b"".join(b'"%d":0,' % n for n in range(900_000)) + b'"x":0}', WRONG),
    "ten mebibytes of empty arrays": (with_member(b"x", b"[" + b"[]," * 3_400_000 + b"0]"), WRONG),
    "ten mebibytes of empty arrays, not closed": (BODY[:-1] + b',"x":[' + b"[]," * 3_400_000, WRONG),
    "ten mebibytes of arrays 40 deep": (with_member(b"x", filled(nested(40, b"[", b"]") + b",")), WRONG),
    "ten mebibytes of messages that are none": (BODY.replace(b'[{"role', filled(b"0,") + b',"y":[{"role'), WRONG),
    "4,096 wrong messages": (json.dumps(REQUEST | {"messages": [{"role": 1, "Role": 2}] * 4_096}).encode(), WRONG),
    "Messages beside messages": (with_member(b"Messages", b"[]"), WRONG),
    "messages with a long s beside messages": (with_member(b"me\\u017f\\u017fages", b"[]"), WRONG),
    "Stream beside no stream": (with_member(b"Stream", b"true"), WRONG),
    "Role beside a role": (BODY.replace(b'"role": "user"', b'"role": "user", "Role": "system"'), WRONG),
    "Content beside the content": (BODY.replace(b'"role": "user"', b'"role": "user", "Content": ""'), WRONG),
    "a role that there is not": (BODY.replace(b'"user"', b'"root"'), WRONG),
    "a model of 257 characters": (BODY.replace(b"gpt-4o", b"g" * 257), WRONG),
    "a model that nobody serves": (BODY.replace(b"gpt-4o", b"claude"), (404, "model_not_found")),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_invalid_body_gets_an_error_envelope(proxy: Loopback, name: str) -> None:
    """IBEX bounds the time and memory, and records the refusal. The provider gets no request."""
    body, outcome = REFUSED[name]
    before, began = resident_kib(), time.monotonic()
    seen = proxy.ask(body=body)
    assert seen.outcome == outcome
    assert resident_kib() - before < ROOM_KIB
    assert time.monotonic() - began < 20  # generous for a busy machine: the slowest case takes a tenth of a second
    assert len(seen.body) < 10_000
    assert b"canary" not in seen.body
    exchange = proxy.record(seen.request_id)
    code = seen.error.get("ibex_code", outcome[1])
    assert (exchange.status, exchange.error_code, exchange.reached_provider) == (outcome[0], code, False)
    assert proxy.provider.requests == []


FORWARDED: dict[str, bytes] = {
    "a member of 10,000 digits": with_member(b"seed", DIGITS),
    "a member that the provider does not know either": with_member(b"x-\xc3\xa4", b'{"a":[1.0,1e2,"\\u00e4\\/"]}'),
    "an unknown member twice": with_member(b"x", b'1,"x":2'),
    "64 deep": with_member(b"x", nested(63)),
    "spaces": BODY.replace(b":", b" :\t\r\n "),
    "a NUL in a text": BODY.replace(b"canary-prompt", b"\\u0000"),
    "numbers as they are written": with_member(b"top_p", b"1.00000000000000000000000001"),
}


@pytest.mark.parametrize("name", FORWARDED)
def test_an_unusual_but_valid_body_is_forwarded_unchanged(proxy: Loopback, name: str) -> None:
    """IBEX leaves members that it does not interpret to the provider, as the client wrote them."""
    body = FORWARDED[name]
    seen = proxy.ask(completion("well"), body=body)
    assert (seen.status, seen.body) == (200, completion_body("well"))
    received = proxy.provider.requests[0].body
    directed = json.dumps({"role": "system", "content": DIRECTIVE}, separators=(",", ":")).encode()
    assert received.count(directed) == 1
    assert _members(received.replace(directed + b",", b"")) == _members(body)
    assert proxy.record(seen.request_id).is_complete


def _members(body: bytes) -> list[Any]:
    """Return the members in order, with numbers as text and duplicates kept."""
    pairs = json.loads(body, object_pairs_hook=list, parse_int=str, parse_float=str)
    return list(pairs)


def test_a_lone_surrogate_in_a_text_causes_no_internal_error(proxy: Loopback) -> None:
    """JSON can represent it and UTF-8 cannot. IBEX forwards it unchanged or refuses it."""
    seen = proxy.ask(completion("well"), body=BODY.replace(b"canary-prompt", b"\\ud800"))
    assert seen.status in {200, 400}
    assert proxy.record(seen.request_id).status == seen.status


def _text_of(size: int) -> bytes:
    return BODY.replace(b"canary-prompt", b"x" * (size - len(BODY) + len(b"canary-prompt")))


@pytest.mark.parametrize("how", ["by length", "by chunks"])
def test_a_body_of_the_maximum_size_is_forwarded(proxy: Loopback, how: str) -> None:
    """A body with one more byte gets 413. IBEX refuses a larger declared length before it reads the body."""
    proxy.provider.put(completion("well"))
    with proxy.client() as client:
        _send(proxy, client, _text_of(MOST), how)
        assert client.response().status == 200
    assert proxy.provider.requests[0].body.count(b"x") > MOST - 1_000
    with proxy.client() as client:
        _send(proxy, client, _text_of(MOST + 1), how)
        seen = client.response()
    assert seen.outcome == (413, "PAYLOAD_TOO_LARGE")
    exchange = proxy.record(seen.request_id)
    assert (exchange.status, exchange.reached_provider) == (413, False)
    assert len(proxy.provider.requests) == 1


def test_a_declared_length_is_refused_before_the_body(proxy: Loopback) -> None:
    """The client gets 413 instead of 100 Continue."""
    with proxy.client() as client:
        client.send(proxy.head(f"content-length: {MOST + 1}", "expect: 100-continue"))
        assert client.response().outcome == (413, "PAYLOAD_TOO_LARGE")


def _send(proxy: Loopback, client: RawClient, body: bytes, how: str) -> None:
    if how == "by length":
        client.send(proxy.head(f"content-length: {len(body)}"))
        if len(body) <= MOST:
            client.send(body)
        return
    client.send(proxy.head("transfer-encoding: chunked"))
    try:
        for start in range(0, len(body), 1 << 16):
            piece = body[start : start + (1 << 16)]
            client.send(b"%x\r\n%s\r\n" % (len(piece), piece))
        client.send(b"0\r\n\r\n")
    except ConnectionError:
        assert len(body) > MOST


@pytest.mark.parametrize(
    ("header", "outcome"),
    [
        ("content-type: text/plain", (415, "UNSUPPORTED_MEDIA_TYPE")),
        ("content-encoding: gzip", (415, "UNSUPPORTED_MEDIA_TYPE")),
        ("x-ibex-session-id: a b", WRONG),
        ("x-ibex-session-id: " + "a" * 129, WRONG),
        ("x-ibex-session-end: perhaps", WRONG),
        ("x-ibex-agent-id: one", WRONG),
        ("x-ibex-agent-id: urn:uuid:00000000-0000-0000-0000-000000000001", WRONG),
        ("x-ibex-agent-id: 00000000000000000000000000000001", WRONG),
        ("x-ibex-agent-id: \xa000000000-0000-0000-0000-000000000001", WRONG),
        ("x-ibex-session-id: one\xa0", WRONG),
        ("x-ibex-session-end: \x85true", WRONG),
    ],
)
def test_an_invalid_header_gets_an_error_envelope(proxy: Loopback, header: str, outcome: tuple[int, str]) -> None:
    """IBEX refuses a second, unsupported content type too. The refusal is recorded."""
    with proxy.client() as client:
        client.send(proxy.chat(BODY, header))
        seen = client.response()
    assert seen.outcome == outcome
    assert proxy.record(seen.request_id).status == outcome[0]


LENGTH = f"content-length: {len(BODY)}"
CHUNKED = "transfer-encoding: chunked"
HEADERS: dict[str, tuple[Sequence[str], int]] = {
    "both lengths": ((LENGTH, CHUNKED), 400),
    "two lengths": ((LENGTH, "content-length: 5"), 400),
    "the same length twice": ((LENGTH, LENGTH), 400),
    "a list of lengths": ((f"{LENGTH}, {len(BODY)}",), 400),
    "a signed length": ((LENGTH.replace(": ", ": +"),), 400),
    "a negative length": (("content-length: -1",), 400),
    "a length beyond numbers": (("content-length: 99999999999999999999",), 400),
    "two codings": ((CHUNKED, CHUNKED), 400),
    "a coding that is none": (("transfer-encoding: xchunked",), 400),
    "a coding after chunked": (("transfer-encoding: chunked, identity",), 400),
    "a coding behind a tab": (("transfer-encoding:\x0bchunked",), 400),
    "a space before the colon": ((LENGTH, "transfer-encoding : chunked"), 400),
    "a folded header": ((LENGTH, "x-a: b\r\n c"), 400),
    "a bare LF": ((LENGTH, "x-a: b\nx-c: d"), 400),
    "a bare CR": ((LENGTH, "x-a: b\rx-c: d"), 400),
    "a NUL": ((LENGTH, "x-a: b\x00c"), 400),
    "a name with a NUL": ((LENGTH, "x-\x00a: b"), 400),
    "no colon": ((LENGTH, "x-a"), 400),
    "no name": ((LENGTH, ": b"), 400),
    "two hosts": ((LENGTH, "host: other"), 400),
    "a header of 64 KiB": ((LENGTH, "x-a: " + "a" * 65_536), 431),
    "500 headers": ((LENGTH, *(f"x-{n}: a" for n in range(500))), 431),
}


@pytest.mark.parametrize("name", HEADERS)
def test_ambiguous_framing_is_refused(proxy: Loopback, name: str) -> None:
    """IBEX closes the connection without processing the request, so no smuggled request can follow."""
    lines, status = HEADERS[name]
    with proxy.client() as client:
        client.send(proxy.head(*lines, request_id=(request_id := uuid4())) + BODY)
        _is_refused(client, status)
    assert proxy.recorded_nothing_of(str(request_id))
    assert proxy.provider.requests == []


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /health\r\n\r\n",
        b"GET /health HTTP/2.0\r\nhost: a\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\nhost: a\n\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\n\r\n",
        b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03" + bytes(50),
        b"\x00" * 100,
    ],
)
def test_invalid_http_gets_400(proxy: Loopback, sent: bytes) -> None:
    """The client gets an error envelope, and the connection closes."""
    with proxy.client() as client:
        client.send(sent)
        _is_refused(client, 400)


def _is_refused(client: RawClient, status: int) -> None:
    seen: Seen = client.response()
    assert seen.outcome == (status, "HEADERS_TOO_LARGE" if status == 431 else "VALIDATION_ERROR")
    assert seen.headers["connection"] == "close"
    assert client.is_at_end()


@pytest.mark.parametrize("size", [b"0x5", b"-1", b"zz", b"", b" 5", b"f" * 20, b"5\n", b"5;a\nb"])
def test_an_invalid_chunk_size_closes_the_connection(proxy: Loopback, size: bytes) -> None:
    """The end of the body is unknown, so no request can follow it."""
    with proxy.client() as client:
        client.send(proxy.head(CHUNKED, request_id=(request_id := uuid4())) + size + b"\r\n{}{}{\r\n0\r\n\r\n")
        _is_refused(client, 400)
    assert proxy.record(request_id).status == 400
    assert proxy.provider.requests == []


def test_a_request_with_two_tokens_gets_401(proxy: Loopback) -> None:
    """IBEX accepts neither of them, although one is valid."""
    with proxy.client() as client:
        client.send(proxy.chat(BODY, "authorization: Bearer other"))
        seen = client.response()
    assert seen.outcome == (401, "INVALID_TOKEN")
    assert proxy.provider.requests == []


@pytest.mark.parametrize(
    ("credential", "code"),
    [
        ("Bearer \xa0{}", "INVALID_TOKEN"),
        ("Bearer {}\xa0", "INVALID_TOKEN"),
        ("Bearer {}\x85", "INVALID_TOKEN"),
        ("\xa0Bearer {}", "MISSING_TOKEN"),
        ("Bearer\xa0{}", "MISSING_TOKEN"),
        ("Bearer\t{}", "MISSING_TOKEN"),
    ],
)
def test_a_blank_other_than_a_space_invalidates_a_token(proxy: Loopback, credential: str, code: str) -> None:
    """The blank is part of the credential. The token alone is accepted afterwards."""
    line = f"authorization: {credential.format(proxy.token)}".encode("latin-1")
    head = proxy.head(LENGTH).replace(f"authorization: Bearer {proxy.token}".encode(), line)
    with proxy.client() as client:
        client.send(head + BODY)
        assert client.response().outcome == (401, code)
    assert proxy.provider.requests == []
    assert proxy.ask(completion("well"), body=BODY).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "//v1/chat/completions",
        "/v1//chat/completions",
        "/v1/./chat/completions",
        "/v1/x/../chat/completions",
        "/v1/chat%2Fcompletions",
        "/v1/%63hat/completions",
        "/v1/chat/completions/",
        "/v1/chat/completions;x",
        "/v1\\chat\\completions",
    ],
)
def test_a_path_in_another_spelling_gets_404(proxy: Loopback, path: str) -> None:
    """An intermediary that checks paths must see the same path as IBEX. The request is not recorded."""
    with proxy.client() as client:
        client.send(proxy.head(LENGTH, path=path, request_id=(request_id := uuid4())) + BODY)
        assert client.response().outcome == (404, "NOT_FOUND")
    assert proxy.recorded_nothing_of(str(request_id))
    assert proxy.ask(completion("well"), body=BODY).status == 200


@pytest.mark.parametrize("path", ["/v1/chat/completions#x", "/v1/chat/completions\xff", "/v1/\xe9/"])
def test_an_invalid_request_target_gets_400(proxy: Loopback, path: str) -> None:
    """A fragment and non-ASCII bytes are invalid. The connection closes."""
    with proxy.client() as client:
        client.send(proxy.head(LENGTH, path=path) + BODY)
        _is_refused(client, 400)
    assert proxy.ask(completion("well"), body=BODY).status == 200


@pytest.mark.parametrize("nobodys", ["00000000-0000-0000-0000-000000000000", "FFFFFFFF-ffff-ffff-ffff-ffffffffffff"])
def test_a_nil_or_max_request_id_is_replaced(proxy: Loopback, nobodys: str) -> None:
    """The record has the new id too."""
    proxy.provider.put(completion("well"))
    with proxy.client() as client:
        client.send(
            proxy.head(LENGTH).replace(b"x-request-id:", f"x-request-id: {nobodys}\r\nx-other:".encode()) + BODY
        )
        seen = client.response()
    assert seen.status == 200
    assert seen.request_id != nobodys.lower()
    assert proxy.record(seen.request_id).is_complete


def test_a_token_in_the_trailers_is_ignored(proxy: Loopback) -> None:
    """Fields after the body are not headers."""
    lines = [line for line in proxy.head(CHUNKED).split(b"\r\n") if not line.startswith(b"authorization")]
    with proxy.client() as client:
        client.send(b"\r\n".join(lines) + b"%x\r\n%s\r\n0\r\nauthorization: Bearer x\r\n\r\n" % (len(BODY), BODY))
        assert client.response().outcome == (401, "MISSING_TOKEN")


def test_pipelined_requests_are_answered_in_order(proxy: Loopback) -> None:
    """Each gets its own response."""
    texts = [f"answer {n}" for n in range(5)]
    proxy.provider.put(*(completion(text) for text in texts))
    with proxy.client() as client:
        client.send(b"".join(proxy.chat(BODY) for _ in texts))
        seen = [client.response() for _ in texts]
    assert [one.body for one in seen] == [completion_body(text) for text in texts]
    assert {proxy.record(one.request_id).is_complete for one in seen} == {True}


def test_a_request_hidden_in_a_body_is_not_processed(proxy: Loopback) -> None:
    """IBEX reads it as the body of the outer request."""
    hidden = proxy.chat(BODY)
    with proxy.client() as client:
        client.send(proxy.chat(hidden) + proxy.chat(BODY))
        assert client.response().outcome == NO_JSON
        assert client.response().status == 200
    assert len(proxy.provider.requests) == 1
