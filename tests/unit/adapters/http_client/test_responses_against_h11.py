"""Compare ``Http1Connection`` with h11 on responses of all kinds, valid and damaged.

If h11 accepts a body, IBEX must read the same body. h11 is strict by design: if it refuses a response, IBEX may accept
it, but must not reuse the connection. h11 never reuses a connection of HTTP/1.0; IBEX does if the server asks for it
(RFC 9112, section 9.3). IBEX skips empty lines after a response, as RFC 9112, section 2.2, allows for requests, and
does not check reason phrases.
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
    """The result of reading a response. ``status`` is None if the response is invalid."""

    status: int | None
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""
    whole: bool = False
    reusable: bool = False


def by_h11(raw: bytes, *, ends: bool) -> Read:
    """Read a response with h11. If ``ends`` is true, the connection ends after it."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="POST", target="/", headers=[("host", "x"), ("content-length", "0")]))
    client.send(h11.EndOfMessage())
    client.receive_data(raw)
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


def by_ours(raw: bytes, cuts: list[int], *, ends: bool) -> Read:
    """Read a response with ``Http1Connection``, in these pieces."""
    wire = Unwired()
    response = wire.connection.send(HEAD, b"")
    places = [0, *sorted({cut % (len(raw) + 1) for cut in cuts}), len(raw)]
    for start, end in itertools.pairwise(places):
        if start < end and not wire.transport.aborted:
            wire.feed(raw[start:end])
    if ends and not wire.transport.aborted:
        wire.connection.eof_received()
        wire.connection.connection_lost(None)
    status = response.status if response.has_head else None
    body = response.take_unread()
    if response.failure is not None:
        assert isinstance(response.failure, httpx.TransportError)
        return Read(status, tuple((n.lower(), v) for n, v in response.headers) if status else (), body)
    wire.connection.finish(response)
    headers = tuple((name.lower(), value) for name, value in response.headers) if status else ()
    return Read(status, headers, body, response.is_complete, reusable=wire.connection in wire.kept)


names = st.sampled_from([b"x-a", b"X-Request-ID", b"content-type", b"server", b"x_b", b"a.b!c"])
field_values = st.sampled_from(
    [b"", b"a", b"a  b", b"text/plain; charset=utf-8", b"\xe4\xff", b'"quoted"', b"a,b", b"\ta"]
)
statuses = st.sampled_from([200, 201, 204, 304, 400, 404, 429, 500, 503, 599])
reasons = st.sampled_from([b" OK", b" ", b"", b" Not Found At All", b" \xe4"])
bodies = st.binary(max_size=60)


@st.composite
def valid_responses(draw: st.DrawFn) -> bytes:
    """Return a valid response, sometimes with interim responses before it."""
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
    """Frame a body as chunks, sometimes with extensions and trailers."""
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


@given(raw=valid_responses(), cuts=cutting, ends=st.booleans())
def test_a_valid_response_is_read_like_h11_reads_it(*, raw: bytes, cuts: list[int], ends: bool) -> None:
    """Compare status, headers, body, its end, and whether the connection is reusable, for any cuts."""
    theirs, ours = by_h11(raw, ends=ends), by_ours(raw, cuts, ends=ends)
    assert (ours.status, ours.body, ours.whole) == (theirs.status, theirs.body, theirs.whole)
    assert ours.headers == theirs.headers
    assert theirs.reusable or not ours.reusable or b"HTTP/1.0" in raw
    assert by_ours(raw, [], ends=ends) == ours


@example(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 0, b"", 0, [])
@given(valid_responses(), st.integers(0, 400), damages, st.integers(0, 3), cutting)
def test_a_damaged_response_is_never_misread(raw: bytes, at: int, damage: bytes, removed: int, cuts: list[int]) -> None:
    """If both accept it, the results are equal. If h11 refuses it, the connection is not reused."""
    at %= len(raw) + 1
    damaged = raw[:at] + damage + raw[at + removed :]
    theirs = by_h11(_EMPTY_LINES.sub(b"\r\n\r\n", _REASON.sub(rb"\1 OK", damaged)), ends=False)
    ours = by_ours(damaged, cuts, ends=False)
    if theirs.whole and ours.whole:
        assert (ours.status, ours.body) == (theirs.status, theirs.body)
    if ours.reusable:
        assert theirs.reusable or b"HTTP/1.0" in damaged
    assert by_ours(damaged, [], ends=False) == ours


@given(st.binary(max_size=200), cutting)
def test_any_bytes_end_in_a_response_or_an_error(raw: bytes, cuts: list[int]) -> None:
    """No other exception is raised, and a connection with an invalid response is never reused."""
    read = by_ours(raw, cuts, ends=True)
    assert not read.reusable
