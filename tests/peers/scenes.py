"""The calls to each peer, directly and through IBEX. Each scene returns a result, which is then compared."""

from __future__ import annotations

import asyncio
import re
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import openai

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Scene = Callable[[openai.OpenAI, str], object]

_MESSAGES: Final[Any] = [{"role": "user", "content": "What is an ibex?"}]
_PARAMETERS: Final = {"type": "object", "properties": {"city": {"type": "string"}}}
_TOOLS: Final[Any] = {"tools": [{"type": "function", "function": {"name": "weather", "parameters": _PARAMETERS}}]}
_FORMAT: Final = {"type": "json_schema", "json_schema": {"name": "answer", "schema": _PARAMETERS}}
_WITH_USAGE: Final[Any] = {"stream_options": {"include_usage": True}}
_VOLATILE: Final = re.compile(rb'("(?:id|request_id|created|system_fingerprint)": ?)(?:"[^"]*"|[0-9.]+)')
UNKNOWN_MODEL: Final = "no-such-model"


def _message(answer: Any) -> object:
    choice = answer.choices[0]
    calls = [(call.function.name, call.function.arguments) for call in choice.message.tool_calls or ()]
    return choice.message.content, calls, choice.finish_reason, answer.usage


def buffered(client: openai.OpenAI, model: str, **more: Any) -> object:
    """A completion."""
    return _message(client.chat.completions.create(model=model, messages=_MESSAGES, **more))


def _buffered_async(client: openai.OpenAI, model: str) -> object:
    async def ask() -> object:
        async with openai.AsyncOpenAI(base_url=client.base_url, api_key=client.api_key, max_retries=0) as other:
            return _message(await other.chat.completions.create(model=model, messages=_MESSAGES))

    return asyncio.run(ask())


def streamed(client: openai.OpenAI, model: str, **more: Any) -> object:
    """A stream, as the SDK reads it: the number of chunks, and all texts, calls, finish reasons and usage."""
    said: list[object] = []
    chunks = 0
    with client.chat.completions.create(model=model, messages=_MESSAGES, stream=True, **more) as stream:
        for chunk in stream:
            chunks += 1
            said += [chunk.usage] if chunk.usage else []
            for choice in chunk.choices:
                functions = [call.function for call in choice.delta.tool_calls or () if call.function]
                said += [(function.name, function.arguments) for function in functions]
                said += [part for part in (choice.delta.content, choice.finish_reason) if part]
    if not said:
        raise ValueError("an empty stream")
    return chunks, said


def leave(client: openai.OpenAI, model: str) -> object:
    """Read the first chunk of a stream and disconnect."""
    with client.chat.completions.create(model=model, messages=_MESSAGES, stream=True) as stream:
        return next(iter(stream))


def _bytes_buffered(client: openai.OpenAI, model: str) -> object:
    answer = client.chat.completions.with_raw_response.create(model=model, messages=_MESSAGES)
    return _VOLATILE.sub(rb"\1_", answer.content)


def _bytes_streamed(client: openai.OpenAI, model: str, **more: Any) -> object:
    call = client.chat.completions.with_streaming_response.create
    with call(model=model, messages=_MESSAGES, stream=True, **more) as answer:
        return _VOLATILE.sub(rb"\1_", b"".join(answer.iter_bytes()))


SCENES: Final[Mapping[str, Scene]] = {
    "buffered": buffered,
    "buffered, async client": _buffered_async,
    "streamed": streamed,
    "streamed with usage": partial(streamed, **_WITH_USAGE),
    "tools": partial(buffered, **_TOOLS),
    "tools, streamed": partial(streamed, **_TOOLS),
    "response_format": partial(buffered, response_format=_FORMAT),
    "bytes, buffered": _bytes_buffered,
    "bytes, streamed": _bytes_streamed,
    "bytes, streamed with usage": partial(_bytes_streamed, **_WITH_USAGE),
    "bad parameter": partial(buffered, extra_body={"logprobs": "hot"}),  # IBEX leaves this check to the provider
    "unknown model": buffered,
    "rate limited": buffered,
}
"""Those that are asked twice and compared. Of bytes all count but ids, times and fingerprints."""
