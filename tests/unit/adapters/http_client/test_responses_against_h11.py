"""Answers of every shape, well-formed and damaged, read beside h11: where it reads a body, ours is the same.

h11 is strict by design. Where it raises, ours may read on only if nothing can follow on that connection. It keeps no
connection of HTTP/1.0; ours does where the server asks for it (RFC 9112, section 9.3). Ours passes over empty lines
after an answer, as RFC 9112, section 2.2 has it for requests, and does not look at reason phrases.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

import h11
import httpx
from hypothesis import example, given
from hypothesis import strategies as st

from harness.unwired import Unwired

_REASON = re.compile(rb"(HTTP/1\.[01] [0-9]{3}) [^\r\n]*")
_EMPTY_LINES = re.compile(rb"\r\n\r\n[\r\n]+(?=HTTP/)")
HEAD = b"POST / HTTP/1.1\r\nhost: x\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Read:
    """What a client makes of an answer: None for the status where it makes nothing of it."""

    status: int | None
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""
    whole: bool = False
    reusable: bool = False


def by_h11(answer: bytes, *, ends: bool) -> Read:
    """Read an answer with h11; ``ends``: the connection ends after it."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="POST", target="/", headers=[("host", "x"), ("content-length", "0")]))
    client.send(h11.EndOfMessage())
    client.receive_data(answer)
    if ends:
        client.receive_data(b"")
    status: int | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body, whole = b"", False
    try:
        while not whole:
            event = client.next_event()
            if event is h11.NEED_DATA or isinstance(event, h11.ConnectionClosed):
                break
            if isinstance(event, h11.Response):
                status, headers = event.status_code, tuple(event.headers)
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                whole = True
    except h11.RemoteProtocolError:
        return Read(status, headers, body)
    rest, _ = client.trailing_data
    return Read(
        status,
        headers,
        body,
        whole,
        reusable=whole and client.their_state is h11.DONE and not rest.strip(b"\r\n") and not ends,
    )


def by_ours(answer: bytes, cuts: list[int], *, ends: bool) -> Read:
    """Read an answer with the connection, in these pieces."""
    wire = Unwired()
    reply = wire.connection.send(HEAD, b"")
    places = [0, *sorted({cut % (len(answer) + 1) for cut in cuts}), len(answer)]
    for start, end in itertools.pairwise(places):
        if start < end and not wire.transport.aborted:
            wire.feed(answer[start:end])
    if ends and not wire.transport.aborted:
        wire.connection.eof_received()
        wire.connection.connection_lost(None)
    status = reply.status if reply.has_head else None
    body = b"".join(reply.unread())
    if reply.failure is not None:
        assert isinstance(reply.failure, httpx.TransportError)
        return Read(status, tuple((n.lower(), v) for n, v in reply.headers) if status else (), body)
    wire.connection.finish(reply)
    headers = tuple((name.lower(), value) for name, value in reply.headers) if status else ()
    return Read(status, headers, body, reply.is_complete, reusable=wire.connection in wire.kept)


names = st.sampled_from([b"x-a", b"X-Request-ID", b"content-type", b"server", b"x_b", b"a.b!c"])
field_values = st.sampled_from(
    [b"", b"a", b"a  b", b"text/plain; charset=utf-8", b"\xe4\xff", b'"quoted"', b"a,b", b"\ta"]
)
statuses = st.sampled_from([200, 201, 204, 304, 400, 404, 429, 500, 503, 599])
reasons = st.sampled_from([b" OK", b" ", b"", b" Not Found At All", b" \xe4"])
bodies = st.binary(max_size=60)


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """Return a well-formed answer, with interim ones before it now and then."""
    interim = draw(st.lists(st.sampled_from([b"100 Continue", b"103 Early Hints\r\nlink: </a>"]), max_size=2))
    before = b"".join(b"HTTP/1.1 " + one + b"\r\n\r\n" for one in interim)
    status, body = draw(statuses), draw(bodies)
    version = draw(st.sampled_from([b"1.1", b"1.1", b"1.0"]))
    fields = [name + b": " + value for name, value in draw(st.lists(st.tuples(names, field_values), max_size=4))]
    if draw(st.booleans()):
        fields.append(b"connection: " + draw(st.sampled_from([b"close", b"keep-alive", b"Keep-Alive", b"CLOSE"])))
    framing = draw(st.sampled_from(["length", "chunked", "none"])) if version == b"1.1" else "length"
    if status in {204, 304}:
        body, framing = b"", "none"
    if framing == "length":
        fields.append(b"Content-Length: %d" % len(body))
    elif framing == "chunked":
        fields.append(b"Transfer-Encoding: chunked")
        body = draw(chunks(body))
    head = b"HTTP/" + version + b" %d" % status + draw(reasons)
    return before + b"\r\n".join([head, *fields, b"", b""]) + body


@st.composite
def chunks(draw: st.DrawFn, body: bytes) -> bytes:
    """Frame a body as chunks, with extensions and trailers now and then."""
    places = [0, *sorted({cut % (len(body) + 1) for cut in draw(st.lists(st.integers(0, 99), max_size=4))}), len(body)]
    pieces = [body[start:end] for start, end in itertools.pairwise(places) if start < end]
    extension = draw(st.sampled_from([b"", b";x=y", b";x"]))
    framed = b"".join(b"%x" % len(piece) + extension + b"\r\n" + piece + b"\r\n" for piece in pieces)
    trailer = draw(st.sampled_from([b"", b"x-sum: 1\r\n"]))
    return framed + b"0\r\n" + trailer + b"\r\n"


damages = st.sampled_from(
    [
        *(b"", b"\r", b"\n", b"\r\n", b"\x00", b" ", b":", b"\xff", b"0", b"9", b"f", b","),
        *(b"content-length: 3\r\n", b"transfer-encoding: chunked\r\n", b"transfer-encoding: gzip\r\n", b" folded\r\n"),
    ]
)
cutting = st.lists(st.integers(0, 400), max_size=8)


@given(answer=answers(), cuts=cutting, ends=st.booleans())
def test_a_good_answer_is_read_as_h11_reads_it(*, answer: bytes, cuts: list[int], ends: bool) -> None:
    """Status, headers, body, its end, and whether another request may follow; wherever it was cut."""
    theirs, ours = by_h11(answer, ends=ends), by_ours(answer, cuts, ends=ends)
    assert (ours.status, ours.body, ours.whole) == (theirs.status, theirs.body, theirs.whole)
    assert ours.headers == theirs.headers
    assert theirs.reusable or not ours.reusable or b"HTTP/1.0" in answer
    assert by_ours(answer, [], ends=ends) == ours


@example(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 0, b"", 0, [])
@given(answers(), st.integers(0, 400), damages, st.integers(0, 3), cutting)
def test_a_damaged_answer_is_never_read_as_another_one(
    answer: bytes, at: int, damage: bytes, removed: int, cuts: list[int]
) -> None:
    """Where both make a whole answer of it, it is the same; where h11 makes none, nothing follows it."""
    at %= len(answer) + 1
    damaged = answer[:at] + damage + answer[at + removed :]
    theirs = by_h11(_EMPTY_LINES.sub(b"\r\n\r\n", _REASON.sub(rb"\1 OK", damaged)), ends=False)
    ours = by_ours(damaged, cuts, ends=False)
    if theirs.whole and ours.whole:
        assert (ours.status, ours.body) == (theirs.status, theirs.body)
    if ours.reusable:
        assert theirs.reusable or b"HTTP/1.0" in damaged
    assert by_ours(damaged, [], ends=False) == ours


@given(st.binary(max_size=200), cutting)
def test_any_bytes_end_in_an_answer_or_an_error(answer: bytes, cuts: list[int]) -> None:
    """Never in an exception of another kind, and never in a connection that is kept for what was no answer."""
    read = by_ours(answer, cuts, ends=True)
    assert not read.reusable
