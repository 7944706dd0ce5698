"""Properties of forwarding for the Responses API: the proxy changes nothing but ``instructions``.

Hypothesis makes the requests, the responses and the streams, how they are framed and where they are cut, as in
``test_forwarding_properties``. A response is written by hand around the value of ``instructions``, so that what the
client must get is known to the byte.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from harness.chat_scene import DIRECTIVE
from harness.forwarding import Proxy, directives, framed, quick, raw_members, texts, values, write
from harness.openai_responses import USAGE
from harness.responses_requests import held_bytes, request_of
from ibex.adapters.openai_api.member_scanner import MAX_VALUE_BYTES
from ibex.adapters.openai_api.server_sent_events import EventSplitter
from ibex.domain.directives.model import Directive, InjectionMode
from ibex.domain.proxying.provider import Dialect

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.integration

RESPONSES = "/v1/responses"
INSTRUCTIONS = "instructions"
UNDERSTOOD = {"model", "stream", "input", INSTRUCTIONS, "previous_response_id", "background"}
READ_OF_EVENT = {"type", "sequence_number", "response", "error", "delta", "output_index", "content_index"}
CAPTURED = ("id", "model", "status", "usage", "incomplete_details", "created_at")
READ = (*CAPTURED, INSTRUCTIONS, "output")
READ_OF_RESPONSE = {*READ, "error"}
LARGE = (4 << 20) + 1
"""The size, in bytes, of an event that the proxy does not hold as a whole."""


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    """Return one proxy for all examples."""
    with Proxy() as running:
        yield running


names = texts | st.sampled_from(["type", "response", INSTRUCTIONS, "Instructions", "data:", 'a"b', "id", "usage"])
anything = values | st.dictionaries(names, values | st.dictionaries(names, values, max_size=2), max_size=3)
items = st.one_of(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "system", "developer", "tool"])}, optional={"content": values}
    ),
    st.builds(
        lambda kind, rest: {**rest, "type": kind}, texts, st.dictionaries(texts.filter(lambda n: n != "role"), values)
    ),
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Return the bytes of a valid request."""
    members: dict[str, Any] = {"model": "gpt-5"}
    optional: dict[str, st.SearchStrategy[Any]] = {
        "input": texts | st.lists(items, max_size=4) | st.none(),
        INSTRUCTIONS: texts | st.none(),
        "stream": st.booleans() | st.none(),
        "previous_response_id": st.none(),
        "background": st.sampled_from([False, None]),
        "tools": st.lists(anything, max_size=2),
        "conversation": anything,
        "prompt": anything,
        "store": st.booleans() | st.none(),
    }
    members |= draw(st.fixed_dictionaries({}, optional=optional))
    members |= draw(st.dictionaries(names.filter(lambda name: name.casefold() not in UNDERSTOOD), values, max_size=3))
    return written(draw, members)


def written(draw: st.DrawFn, members: dict[str, Any]) -> bytes:
    """Write an object with its members in any order, as any client or server might have."""
    space = draw(st.sampled_from([b"", b" ", b"\n\t "]))
    order = draw(st.permutations(list(members)))
    pairs = [space + write(draw, name) + space + b":" + space + write(draw, members[name]) for name in order]
    return space + b"{" + b",".join(pairs) + b"}" + space


def directed(own: str | None, directive: Directive) -> str:
    """Return the instructions that the provider is to read, by a second reading of the specification."""
    if not own:
        return directive.text
    order = (own, directive.text) if directive.mode is InjectionMode.SYSTEM_APPEND else (directive.text, own)
    return "\n\n".join(order)


COMPLETED = {"id": "resp_1", "object": "response", "status": "completed", "output": [], "usage": USAGE}
ANSWER = json.dumps(COMPLETED).encode()
END = b'event: response.completed\ndata: {"type":"response.completed","response":%b}\n\n' % ANSWER


@quick
@given(requests(), directives)
def test_the_provider_gets_the_clients_request_with_the_directive(
    proxy: Proxy, request: bytes, directive: Directive | None
) -> None:
    """All members but ``instructions`` keep their bytes and their order. Without a directive the whole body does."""
    client = json.loads(request)
    streams = client.get("stream") is True
    script = framed(END if streams else ANSWER, [], streams=streams, by_chunks=False)

    sent, status, received = proxy.exchange(request, script, directive, path=RESPONSES)

    assert (status, received) == (200, END if streams else ANSWER)
    if directive is None:
        assert sent == request
        return
    assert json.loads(sent) == client | {INSTRUCTIONS: directed(client.get(INSTRUCTIONS), directive)}
    assert [m for m in raw_members(sent) if m[0] != INSTRUCTIONS] == [
        m for m in raw_members(request) if m[0] != INSTRUCTIONS
    ]


class Written(NamedTuple):
    """A response as JSON text: what is before the value of ``instructions``, that value, and what is after it.

    Without the member, all is before it and the others are empty.
    """

    before: bytes
    value: bytes
    after: bytes

    @property
    def sent(self) -> bytes:
        """The bytes that the provider sends."""
        return b"".join(self)

    def shown(self, own: bytes | None) -> bytes:
        """Return the bytes for the client. ``own`` is the value that the proxy restores, None if it restores none."""
        value = self.value if own is None or self.value in {b"", b"null"} else own
        return self.before + value + self.after


class Turn(NamedTuple):
    """A request with a directive or without one, and the client's own instructions as JSON text, None if absent."""

    directive: Directive | None
    own: bytes | None

    @property
    def restored(self) -> bytes | None:
        """The value that the client gets instead of the provider's; None if that is forwarded."""
        return None if self.directive is None else self.own or b"null"

    def request(self, *, stream: bool) -> bytes:
        """Return the body of the request."""
        own = b"" if self.own is None else b',"instructions":' + self.own
        return b'{"model":"gpt-5","input":"hi","stream":%b%b}' % (b"true" if stream else b"false", own)

    def repeated(self) -> str:
        """Return the instructions that the provider repeats."""
        own = None if self.own is None else json.loads(self.own)
        return own or "" if self.directive is None else directed(own, self.directive)


@st.composite
def turns(draw: st.DrawFn) -> Turn:
    """Return any turn."""
    own = draw(st.none() | texts.map(lambda text: json.dumps(text).encode()) | st.sampled_from([b"null", b'""']))
    return Turn(draw(directives), own)


@st.composite
def responses(draw: st.DrawFn, repeated: str, more: dict[str, Any]) -> Written:
    """Return a response with these members and others, whose instructions are those or, of some servers, others."""
    optional: dict[str, st.SearchStrategy[Any]] = {"tools": st.lists(anything, max_size=2), "metadata": anything}
    members = draw(st.fixed_dictionaries({}, optional=optional))
    members |= draw(st.dictionaries(names.filter(lambda name: name not in READ_OF_RESPONSE), anything, max_size=3))
    members |= more
    value = draw(st.just(repeated) | st.sampled_from([None, "", "other"]) | st.lists(texts, min_size=1, max_size=2))
    order = draw(st.permutations([*members, INSTRUCTIONS]))
    space = draw(st.sampled_from([b"", b" ", b"\n  "]))
    if draw(st.integers(0, 9)) == 0:
        order.remove(INSTRUCTIONS)
    parts: list[list[bytes]] = [[b"{"], [], []]
    at = 0
    for index, name in enumerate(order):
        parts[at].append((b"," if index else b"") + space + write(draw, name) + b":" + space)
        if name != INSTRUCTIONS:
            parts[at].append(write(draw, members[name]))
            continue
        parts[1].append(write(draw, value))
        at = 2
    parts[at].append(space + b"}")
    return Written(*(b"".join(part) for part in parts))


def _of(name: str) -> dict[str, Any]:
    """Return the members of a response that has ended like this."""
    return {"id": "resp_7", "status": name, "usage": USAGE, "model": "gpt-5-2026-08-07", "output": []}


PADDING = st.sampled_from([0] * 30 + [70_000] * 5 + [LARGE])


@quick
@given(
    data=st.data(),
    turn=turns(),
    padding=PADDING,
    cuts=st.lists(st.integers(0, 10_000), max_size=6),
    by_chunks=st.booleans(),
)
def test_the_client_gets_the_providers_response_with_its_own_instructions(
    *, proxy: Proxy, data: st.DataObject, turn: Turn, padding: int, cuts: list[int], by_chunks: bool
) -> None:
    """The framing, the cuts, the size, the spelling and other members named ``instructions`` do not matter."""
    response = data.draw(responses(turn.repeated(), _of("completed") | {"x": "A" * padding}))
    script = framed(response.sent, cuts, streams=False, by_chunks=by_chunks)

    _, status, received = proxy.exchange(turn.request(stream=False), script, turn.directive, path=RESPONSES)

    assert status == 200
    assert received == response.shown(turn.restored)
    assert proxy.scene.chat.journal.kept[-1].summary.response_id == "resp_7"


class Event(NamedTuple):
    """An event as the provider sends it and as the client must get it."""

    sent: bytes
    shown: bytes

    @classmethod
    def unchanged(cls, raw: bytes) -> Event:
        """Return an event that is forwarded as it is."""
        return cls(raw, raw)


others = st.sampled_from(
    [
        b": a comment {\n\n",
        b"event: ping\nid: 7\nretry: 5\n\n",
        b'data:{"type":"x","instructions":"not of a response"}\n\n',
        b'data: {"type":"keepalive","item":{"response":{"instructions":"deeper"}}}\n\n',
        b'event: x\ndata: {"type":"x",\ndata: "sequence_number":3}\n\n',
        b"\n",
        b"data: {broken\n\n",
        b"data: [1]\n\n",
        b"unknown\n\n",
        b'data: {"type":"x","response":"text"}\n\n',
    ]
)


@st.composite
def deltas(draw: st.DrawFn) -> Event:
    """Return an event with a part of the text."""
    members: dict[str, Any] = {"type": "response.output_text.delta", "delta": draw(texts), "output_index": 0}
    members |= draw(st.dictionaries(names.filter(lambda name: name not in READ_OF_EVENT), values, max_size=2))
    return Event.unchanged(_event(written(draw, members), "response.output_text.delta"))


def _event(data: bytes, name: str) -> bytes:
    lines = b"".join(b"data: %b\n" % line for line in data.split(b"\n"))
    return b"event: %b\n%b\n" % (name.encode(), lines)


@st.composite
def events_with_response(draw: st.DrawFn, turn: Turn, kind: str, status: str, padding: int = 0) -> Event:
    """Return an event of a kind, with a response and other members in any order."""
    response = draw(responses(turn.repeated(), _of(status) | {"x": "A" * padding}))
    own: dict[str, Any] = {"type": kind, "sequence_number": draw(st.integers(0, 99))}
    own |= draw(st.dictionaries(names.filter(lambda name: name not in READ_OF_EVENT), anything, max_size=2))
    order = draw(st.permutations([*own, "response"]))
    before = after = b""
    for index, name in enumerate(order):
        pair = (b"," if index else b"") + write(draw, name) + b":"
        if name == "response":
            before, after = before + after + pair, b""
        else:
            after += pair + write(draw, own[name])
    texts_of = (b"{" + before + text + after + b"}" for text in (response.sent, response.shown(turn.restored)))
    return Event(*(_event(text, kind) for text in texts_of))


ENDS = {"completed": "response.completed", "incomplete": "response.incomplete", "failed": "response.failed"}


@st.composite
def streams(draw: st.DrawFn, turn: Turn, padding: int = 0) -> tuple[list[Event], str]:
    """Return a stream and how it ends. Its last event is as large as ``padding`` says."""
    begun = draw(
        st.lists(
            events_with_response(turn, "response.in_progress", "in_progress") | deltas() | others.map(Event.unchanged),
            max_size=6,
        )
    )
    status = draw(st.sampled_from(list(ENDS)))
    last = draw(events_with_response(turn, ENDS[status], status, padding))
    rest = draw(st.sampled_from([[], [b"data: [DONE]\n\n"], [b": bye\n\n", b"data: [DONE]\n\n"]]))
    return [*begun, last, *map(Event.unchanged, rest)], status


def _line_ends(stream: bytes, line_end: bytes) -> bytes:
    return stream.replace(b"\n", line_end)


@quick
@given(
    data=st.data(),
    turn=turns(),
    line_end=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    padding=PADDING,
    cuts=st.lists(st.integers(0, 5_000_000) | st.integers(0, 2_000), max_size=12),
    by_chunks=st.booleans(),
)
def test_a_stream_arrives_with_the_clients_instructions(
    *, proxy: Proxy, data: st.DataObject, turn: Turn, line_end: bytes, padding: int, cuts: list[int], by_chunks: bool
) -> None:
    """The cuts, the framing and the size of the events do not matter. The record says how the stream ended."""
    events, status = data.draw(streams(turn, padding))
    sent, shown = (_line_ends(b"".join(parts), line_end) for parts in zip(*events, strict=True))
    script = framed(sent, cuts, streams=True, by_chunks=by_chunks)

    _, code, received = proxy.exchange(turn.request(stream=True), script, turn.directive, path=RESPONSES)

    assert code == 200
    assert received == shown
    exchange = proxy.scene.chat.journal.kept[-1]
    assert exchange.is_complete is (status != "failed")
    assert exchange.summary.usage.output_tokens == USAGE["output_tokens"]
    assert (exchange.summary.response_id, exchange.summary.model) == ("resp_7", "gpt-5-2026-08-07")


SIZES = st.sampled_from([0, 1_000, MAX_VALUE_BYTES + 1, 2 * MAX_VALUE_BYTES])


@quick
@given(
    sizes=st.fixed_dictionaries(dict.fromkeys(READ, SIZES)),
    order=st.permutations(READ),
    type_size=SIZES,
    chunk_bytes=st.sampled_from([1 << 16, 100_000, 1 << 20]),
)
@example(
    sizes=dict.fromkeys(READ, MAX_VALUE_BYTES - 100), order=list(READ), type_size=MAX_VALUE_BYTES, chunk_bytes=1 << 16
)
def test_the_reader_holds_no_more_than_its_caps(
    sizes: dict[str, int], order: list[str], type_size: int, chunk_bytes: int
) -> None:
    """The reader keeps only the values that it reads, each up to its cap, and none of them after the event."""
    reader = request_of(input="hi").with_directive(DIRECTIVE, Dialect()).response_reader(Dialect())
    members = ",".join(f'"{name}":"{"x" * sizes[name]}"' for name in order)
    stream = f'data: {{"type":"{"t" * type_size}","response":{{{members}}}}}\n\n'.encode()
    splitter = EventSplitter(max_event_bytes=1 << 16)
    forwarded = held = 0
    for start in range(0, len(stream), chunk_bytes):
        for event in splitter.feed(stream[start : start + chunk_bytes]):
            forwarded += len(reader.read_event(event))
            held = max(held, held_bytes(reader))
    kept = sum(size for name, size in sizes.items() if name in CAPTURED and size < MAX_VALUE_BYTES)

    assert forwarded == len(stream) - len('""') - sizes[INSTRUCTIONS] + len("null")
    assert held <= kept + 3 * MAX_VALUE_BYTES + chunk_bytes
    assert held_bytes(reader) < 10_000
