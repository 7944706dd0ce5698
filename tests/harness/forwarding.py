"""A complete proxy for property tests of forwarding: what the provider receives and what the client receives.

It also has the strategies of requests and responses that all operations share.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from harness.chat_scene import DIRECTIVE
from harness.http_scene import CHAT, HEADERS, HttpScene, served
from harness.openai import ScriptedOpenAI
from harness.openai_wire import JSON_TYPE, SSE_TYPE, Send, chunked, head
from ibex.adapters.http_client.transport import default_transport
from ibex.adapters.openai.config import ApiKey, OpenAIConfig
from ibex.adapters.openai.provider import OpenAIProvider
from ibex.adapters.openai_api.chat_completions import ChatCompletions
from ibex.adapters.openai_api.responses import Responses
from ibex.domain.directives.model import Directive, InjectionMode, text_hash

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from harness.openai_wire import Script

FIELDS = b"".join(f"{name}: {value}\r\n".encode() for name, value in HEADERS.items())
quick = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


class Proxy:
    """A client connection, the proxy and a provider in one event loop, with one exchange at a time."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.scene = HttpScene()
        self.scene.operations = [ChatCompletions(), Responses()]
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

    def exchange(
        self, request: bytes, script: Script, directive: Directive | None = None, *, path: str = CHAT
    ) -> tuple[bytes, int, bytes]:
        """Send a request. Return what the provider received, and the status and body of the response."""
        return self.runner.run(self._exchange(request, script, directive, path))

    async def _exchange(
        self, request: bytes, script: Script, directive: Directive | None, path: str
    ) -> tuple[bytes, int, bytes]:
        chat = self.scene.chat
        chat.clock.advance(timedelta(minutes=2))  # to an unused minute, past all cached entries
        chat.directives.answer = directive
        self.provider.scripts.clear()
        self.provider.requests.clear()
        self.provider.put(script)
        length = b"content-length: %d\r\n" % len(request)
        self._writer.write(b"POST " + path.encode() + b" HTTP/1.1\r\nhost: x\r\n" + FIELDS + length + b"\r\n" + request)
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


def write(draw: st.DrawFn, value: Any) -> bytes:
    """Write a value as JSON in any form that a client might use."""
    separators = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " :\t")]))
    return json.dumps(value, ensure_ascii=draw(st.booleans()), separators=separators).encode()


directives = st.none() | st.builds(
    lambda mode, text: Directive(DIRECTIVE.version_id, 1, mode, text, text_hash(text)),
    st.sampled_from(InjectionMode),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=30),
)


def raw_members(text: bytes) -> list[tuple[str, str]]:
    """Split an object into its members' names and the raw text of their values, with the standard library alone."""
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


def framed(body: bytes, cuts: list[int], *, streams: bool, by_chunks: bool) -> Script:
    """Return a response whose body is split at these places, with Content-Length or chunked."""
    places = [0, *sorted({cut % (len(body) + 1) for cut in cuts}), len(body)]
    pieces = [body[start:end] for start, end in itertools.pairwise(places) if start < end]
    fields = {"content-type": SSE_TYPE if streams else JSON_TYPE}
    if not by_chunks:
        fields["content-length"] = str(len(body))
        return (Send(head(200, fields)), *map(Send, pieces))
    fields["transfer-encoding"] = "chunked"
    return (Send(head(200, fields)), *(Send(chunked(piece)) for piece in pieces), Send(chunked(b"")))
