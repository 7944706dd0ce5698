"""Whatever a client may send and a provider may answer, through real sockets on both sides: nothing of it is changed.

Hypothesis makes the requests, the answers, how they are framed and where they are cut. ``make fuzz`` makes many more.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.chat_scene import DIRECTIVE
from harness.http_scene import CHAT, HEADERS, HttpScene, served
from harness.openai import ScriptedOpenAI
from harness.openai_wire import DONE, JSON_TYPE, SSE_TYPE, USAGE, Send, chunk_event, chunked, head
from ibex.adapters.http_client.transport import default_transport
from ibex.adapters.openai.config import ApiKey, OpenAIConfig
from ibex.adapters.openai.provider import OpenAIProvider
from ibex.domain.directives.model import Directive, InjectionMode, text_hash

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractAsyncContextManager

    from harness.openai_wire import Script

pytestmark = pytest.mark.integration

FIELDS = b"".join(f"{name}: {value}\r\n".encode() for name, value in HEADERS.items())
UNDERSTOOD = {
    *("model", "messages", "stream", "stream_options", "temperature", "max_tokens", "max_completion_tokens"),
}
quick = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


class Proxy:
    """A client's connection, the proxy, and a provider: all in one event loop, one exchange at a time."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.scene = HttpScene()
        self.provider = ScriptedOpenAI()
        self._stack: list[AbstractAsyncContextManager[Any]] = []

    def __enter__(self) -> Self:
        self.runner.run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self.runner.run(self._stop())
        self.runner.close()

    async def _start(self) -> None:
        await self.provider.start()
        self._transport = default_transport()
        config = OpenAIConfig(api_key=ApiKey("sk-test"), base_url=self.provider.base_url, max_retries=0)
        self.scene.chat.provider = OpenAIProvider(config, self._transport, self.scene.chat.clock)  # type: ignore[assignment]  # another of the same port
        serving = served(self.scene.app())
        url, _ = await serving.__aenter__()
        self._stack.append(serving)
        self._port = int(url.rpartition(":")[2])
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)

    async def _stop(self) -> None:
        self._writer.close()
        await self._stack.pop().__aexit__(None, None, None)
        await self._transport.aclose()
        await self.provider.stop()

    def exchange(self, request: bytes, script: Script, directive: Directive | None = None) -> tuple[bytes, int, bytes]:
        """Send a request; return what reached the provider, and the status and body that came back."""
        return self.runner.run(self._exchange(request, script, directive))

    async def _exchange(self, request: bytes, script: Script, directive: Directive | None) -> tuple[bytes, int, bytes]:
        chat = self.scene.chat
        chat.clock.advance(timedelta(minutes=2))  # to a minute with nothing counted in it, and past what is remembered
        chat.directives.answer = directive
        self.provider.scripts.clear()
        self.provider.requests.clear()
        self.provider.put(script)
        length = b"content-length: %d\r\n" % len(request)
        self._writer.write(b"POST " + CHAT.encode() + b" HTTP/1.1\r\nhost: x\r\n" + FIELDS + length + b"\r\n" + request)
        fields = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        status = int(fields[9:12])
        sent = self.provider.requests[0].body if self.provider.requests else b""
        return sent, status, await self._body(fields)

    async def _body(self, fields: bytes) -> bytes:
        for line in fields.split(b"\r\n"):
            if line.startswith(b"content-length:"):
                return await self._reader.readexactly(int(line[15:]))
        body = b""
        while size := int(await self._reader.readline(), 16):
            body += await self._reader.readexactly(size)
            await self._reader.readline()
        await self._reader.readline()
        return body


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    """One for all examples."""
    with Proxy() as running:
        yield running


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
parts: st.SearchStrategy[Any] = st.lists(
    st.fixed_dictionaries({"type": st.just("text"), "text": texts})
    | st.fixed_dictionaries({"type": st.just("image_url"), "image_url": st.fixed_dictionaries({"url": texts})}),
    max_size=3,
)
messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool"])},
    optional={"content": texts | parts | st.none(), "name": texts, "tool_calls": st.lists(values, max_size=2)},
)


def write(draw: st.DrawFn, value: Any) -> bytes:
    """Write a value as any client might have."""
    separators = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " :\t")]))
    return json.dumps(value, ensure_ascii=draw(st.booleans()), separators=separators).encode()


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


directives = st.none() | st.builds(
    lambda mode, text: Directive(DIRECTIVE.version_id, 1, mode, text, text_hash(text)),
    st.sampled_from(InjectionMode),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=30),
)


def directed(request: dict[str, Any], directive: Directive | None) -> dict[str, Any]:
    """Return what the provider is to read by the rules of the directive's mode, worked out on parsed JSON."""
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


def raw_members(text: bytes) -> list[tuple[str, str]]:
    """Cut an object into its members' names and the text of their values, with the standard library alone."""
    decoder, source = json.JSONDecoder(), text.decode()
    at = source.index("{") + 1
    found: list[tuple[str, str]] = []
    while True:
        at += len(source[at:]) - len(source[at:].lstrip(" \n\t\r,"))
        if source[at] == "}":
            return found
        name, at = decoder.raw_decode(source, at)
        at = source.index(":", at) + 1
        at += len(source[at:]) - len(source[at:].lstrip(" \n\t\r"))
        _, end = decoder.raw_decode(source, at)
        found.append((name, source[at:end]))
        at = end


ANSWER = b'{"id":"x","choices":[{"index":0,"message":{"content":"ok"},"finish_reason":"stop"}]}'
PLAIN_STREAM = chunk_event({"content": "ok"}, "stop") + DONE


@quick
@given(requests(), directives)
def test_the_provider_gets_what_the_client_sent_and_the_directive(
    proxy: Proxy, request: bytes, directive: Directive | None
) -> None:
    """As JSON, by a second reading of the specification; and each member that is nobody's business byte for byte."""
    client = json.loads(request)
    streams = client.get("stream") is True
    script = _framed(PLAIN_STREAM if streams else ANSWER, [], streams=streams, by_chunks=False)

    sent, status, _ = proxy.exchange(request, script, directive)

    assert status == 200
    assert json.loads(sent) == directed(client, directive)
    if directive is None and not streams:
        assert sent == request
    touched = {"messages", "stream_options"}
    assert [m for m in raw_members(sent) if m[0] not in touched] == [
        m for m in raw_members(request) if m[0] not in touched
    ]


def _framed(body: bytes, cuts: list[int], *, streams: bool, by_chunks: bool) -> Script:
    places = [0, *sorted({cut % (len(body) + 1) for cut in cuts}), len(body)]
    pieces = [body[start:end] for start, end in itertools.pairwise(places) if start < end]
    fields = {"content-type": SSE_TYPE if streams else JSON_TYPE}
    if not by_chunks:
        fields["content-length"] = str(len(body))
        return (Send(head(200, fields)), *map(Send, pieces))
    fields["transfer-encoding"] = "chunked"
    return (Send(head(200, fields)), *(Send(chunked(piece)) for piece in pieces), Send(chunked(b"")))


@quick
@given(
    extra=values,
    cuts=st.lists(st.integers(0, 10_000), max_size=6),
    by_chunks=st.booleans(),
    space=st.sampled_from([b"", b"\n", b" \r\n"]),
)
def test_the_client_gets_the_provider_s_bytes(
    *,
    proxy: Proxy,
    extra: Any,
    cuts: list[int],
    by_chunks: bool,
    space: bytes,
) -> None:
    """However they were framed, cut and written."""
    body = space + json.dumps({**json.loads(ANSWER), "x": extra}, indent=1, ensure_ascii=False).encode() + space
    request = b'{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}]}'

    _, status, received = proxy.exchange(request, _framed(body, cuts, streams=False, by_chunks=by_chunks))

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
def test_a_stream_arrives_as_it_was_sent_less_the_usage_that_was_not_asked_for(
    *,
    proxy: Proxy,
    begun: list[bytes],
    wants_usage: bool,
    gives_usage: bool,
    cuts: list[int],
    by_chunks: bool,
) -> None:
    """Cut anywhere, in an event, a character or a line's end."""
    usage = [chunk_event(None, usage=USAGE)] if gives_usage else []
    last = chunk_event({}, "stop")
    body = b"".join([*begun, last, *usage, DONE])
    options = b',"stream_options":{"include_usage":true}' if wants_usage else b""
    request = b'{"model":"gpt-4o","stream":true' + options + b',"messages":[{"role":"user","content":"hi"}]}'

    _, status, received = proxy.exchange(request, _framed(body, cuts, streams=True, by_chunks=by_chunks))

    assert status == 200
    assert received == b"".join([*begun, last, *(usage if wants_usage else []), DONE])
    exchange = proxy.scene.chat.journal.kept[-1]
    assert exchange.is_complete
    assert exchange.summary.usage.output_tokens == (USAGE["completion_tokens"] if gives_usage else None)
