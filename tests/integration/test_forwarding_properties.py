"""Properties of forwarding over real sockets: requests and responses pass the proxy unchanged.

Hypothesis generates the requests, the responses, their framing and where they are split. ``make fuzz`` runs more.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.forwarding import Proxy, directives, framed, quick, raw_members, texts, values, write
from harness.openai_wire import DONE, USAGE, chunk_event
from ibex.domain.directives.model import Directive, InjectionMode

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.integration

UNDERSTOOD = {
    *("model", "messages", "stream", "stream_options", "temperature", "max_tokens", "max_completion_tokens"),
}


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    """One proxy for all examples."""
    with Proxy() as running:
        yield running


parts: st.SearchStrategy[Any] = st.lists(
    st.fixed_dictionaries({"type": st.just("text"), "text": texts})
    | st.fixed_dictionaries({"type": st.just("image_url"), "image_url": st.fixed_dictionaries({"url": texts})}),
    max_size=3,
)
messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool"])},
    optional={"content": texts | parts | st.none(), "name": texts, "tool_calls": st.lists(values, max_size=2)},
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Return the bytes of a valid request."""
    members: dict[str, Any] = {"model": "gpt-4o", "messages": draw(st.lists(messages, min_size=1, max_size=5))}
    optional: dict[str, st.SearchStrategy[Any]] = {
        "stream": st.booleans(),
        "temperature": st.sampled_from([0, 1.0, 2]),
        "stream_options": st.fixed_dictionaries({}, optional={"include_usage": st.booleans(), "x": values}),
        "tools": st.lists(values, max_size=2),
        "metadata": st.dictionaries(texts, texts, max_size=3),
    }
    members |= draw(st.fixed_dictionaries({}, optional=optional))
    members |= draw(st.dictionaries(texts.filter(lambda name: name not in UNDERSTOOD), values, max_size=3))
    order = draw(st.permutations(list(members)))
    space = draw(st.sampled_from([b"", b" ", b"\n\t "]))
    return (
        space
        + b"{"
        + b",".join(space + write(draw, name) + space + b":" + space + write(draw, members[name]) for name in order)
        + b"}"
        + space
    )


def directed(request: dict[str, Any], directive: Directive | None) -> dict[str, Any]:
    """Return the request that the provider must read in the directive's mode, computed from parsed JSON."""
    expected = dict(request)
    if request.get("stream") is True:
        expected["stream_options"] = {**request.get("stream_options", {}), "include_usage": True}
    if directive is None:
        return expected
    own = [dict(message) for message in request["messages"]]
    roles = {message["role"] for message in own}
    is_developer = directive.mode is not InjectionMode.SYSTEM_APPEND and "developer" in roles and "system" not in roles
    instruction = {"role": "developer" if is_developer else "system", "content": directive.text}
    user = next((m for m in own if m["role"] == "user"), None)
    prefix = f"[DIRECTIVE]: {directive.text}\n\n"
    if directive.mode is InjectionMode.USER_PREPEND and user is not None and isinstance(user.get("content"), str):
        user["content"] = prefix + user["content"]
    elif directive.mode is InjectionMode.USER_PREPEND and user is not None and isinstance(user.get("content"), list):
        user["content"] = [{"type": "text", "text": prefix}, *user["content"]]
    elif directive.mode is InjectionMode.SYSTEM_APPEND:
        last = max((i for i, m in enumerate(own) if m["role"] in {"system", "developer"}), default=-1)
        own.insert(last + 1, instruction)
    else:
        own.insert(0, instruction)
    return {**expected, "messages": own}


ANSWER = b'{"id":"x","choices":[{"index":0,"message":{"content":"ok"},"finish_reason":"stop"}]}'
PLAIN_STREAM = chunk_event({"content": "ok"}, "stop") + DONE


@quick
@given(requests(), directives)
def test_the_provider_gets_the_clients_request_with_the_directive(
    proxy: Proxy, request: bytes, directive: Directive | None
) -> None:
    """A second implementation gives the expected JSON. Members that the proxy does not change keep their bytes."""
    client = json.loads(request)
    streams = client.get("stream") is True
    script = framed(PLAIN_STREAM if streams else ANSWER, [], streams=streams, by_chunks=False)

    sent, status, _ = proxy.exchange(request, script, directive)

    assert status == 200
    assert json.loads(sent) == directed(client, directive)
    if directive is None and not streams:
        assert sent == request
    touched = {"messages", "stream_options"}
    assert [m for m in raw_members(sent) if m[0] not in touched] == [
        m for m in raw_members(request) if m[0] not in touched
    ]


@quick
@given(
    extra=values,
    cuts=st.lists(st.integers(0, 10_000), max_size=6),
    by_chunks=st.booleans(),
    space=st.sampled_from([b"", b"\n", b" \r\n"]),
)
def test_the_client_gets_the_exact_bytes_of_the_provider(
    *,
    proxy: Proxy,
    extra: Any,
    cuts: list[int],
    by_chunks: bool,
    space: bytes,
) -> None:
    """The framing, the splits and the white space do not matter."""
    body = space + json.dumps({**json.loads(ANSWER), "x": extra}, indent=1, ensure_ascii=False).encode() + space
    request = b'{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}]}'

    _, status, received = proxy.exchange(request, framed(body, cuts, streams=False, by_chunks=by_chunks))

    assert (status, received) == (200, body)


events = st.one_of(
    texts.map(lambda text: chunk_event({"content": text})),
    values.map(
        lambda value: b"data: " + json.dumps({"choices": [], "x": value}, ensure_ascii=False).encode() + b"\n\n"
    ),
    st.sampled_from(
        [
            b": a comment\n\n",
            b"event: ping\nid: 7\nretry: 5\n\n",
            b"data:no space\n\n",
            b"data: two\ndata: lines\n\n",
            b"data: carriage\r\n\r\n",
            b"\n",
            b"data: {broken\n\n",
            b"unknown\n\n",
            chunk_event({"content": "x" * 70_000}),
        ]
    ),
)


@quick
@given(
    begun=st.lists(events, max_size=8),
    wants_usage=st.booleans(),
    gives_usage=st.booleans(),
    cuts=st.lists(st.integers(0, 100_000), max_size=12),
    by_chunks=st.booleans(),
)
def test_a_stream_arrives_unchanged_without_unrequested_usage(
    *,
    proxy: Proxy,
    begun: list[bytes],
    wants_usage: bool,
    gives_usage: bool,
    cuts: list[int],
    by_chunks: bool,
) -> None:
    """The stream may be split anywhere: in an event, in a character or in a line ending."""
    usage = [chunk_event(None, usage=USAGE)] if gives_usage else []
    last = chunk_event({}, "stop")
    body = b"".join([*begun, last, *usage, DONE])
    options = b',"stream_options":{"include_usage":true}' if wants_usage else b""
    request = b'{"model":"gpt-4o","stream":true' + options + b',"messages":[{"role":"user","content":"hi"}]}'

    _, status, received = proxy.exchange(request, framed(body, cuts, streams=True, by_chunks=by_chunks))

    assert status == 200
    assert received == b"".join([*begun, last, *(usage if wants_usage else []), DONE])
    exchange = proxy.scene.chat.journal.kept[-1]
    assert exchange.is_complete
    assert exchange.summary.usage.output_tokens == (USAGE["completion_tokens"] if gives_usage else None)
