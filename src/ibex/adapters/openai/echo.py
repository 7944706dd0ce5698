"""The built-in provider for use without an API key: it repeats the user's message, in OpenAI's wire format."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import struct
from array import array
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import count
from typing import TYPE_CHECKING, Any, Final, Protocol

from ibex.adapters.openai.config import DEFAULT_MODELS
from ibex.adapters.openai.echo_responses import ResponsesEcho, input_texts, text_of
from ibex.domain.proxying.provider import Dialect, ProviderBody, ProviderModel, StreamEvent, is_pattern

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from ibex.domain.clock import Clock
    from ibex.domain.proxying.provider import ProviderRequest

_WORDS = re.compile(r"\s*\S+|\s+$")
_DIMENSIONS: Final = 8
_EXAMPLES: Final = (
    "gpt-4o",
    "gpt-4o-mini",
    "chatgpt-4o-latest",
    "o3-mini",
    "codex-mini-latest",
    "computer-use-preview",
    "text-embedding-3-small",
)
"""Names that the echo lists, so that there is something to choose from. It answers every other name as well."""


class EchoProvider:
    """A ``Provider`` that responds with the text of the last user message. Without one, the text is empty.

    A token is a word with the white space before it; the prompt tokens are those of the texts of all messages. A
    response has one choice, which is text, whatever the request sets for ``n``, tools or ``response_format``. A stream
    has one event per token. The text parts of a message are joined; other parts are ignored. Responses are not stored.
    An embedding depends only on the text, and has no meaning.
    """

    name = "echo"
    operations = frozenset({"chat.completions", "responses", "responses.input_tokens", "embeddings"})
    dialect = Dialect()

    def __init__(
        self,
        clock: Clock,
        models: tuple[str, ...] = DEFAULT_MODELS,
        *,
        first_byte_delay_s: float = 0.0,
        chunk_delay_s: float = 0.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Set the delays before the response and between the events of a stream, in seconds."""
        self.models = models
        self._clock = clock
        self._first_byte_delay_s = first_byte_delay_s
        self._chunk_delay_s = chunk_delay_s
        self._sleep = sleep
        self._numbers = count(1)

    async def complete(self, request: ProviderRequest) -> ProviderBody | EchoStream:
        """Return the echo; see ``Provider``. Raises no provider error."""
        payload = json.loads(request.body, parse_int=float)  # int() refuses numbers of many digits
        await self._sleep(self._first_byte_delay_s)
        now = self._clock.now()
        number = f"{int(now.timestamp() * 1_000_000):x}{next(self._numbers):06x}"
        answer = _ANSWERS[request.operation](payload | {"model": request.model}, number, int(now.timestamp()))
        request_id = f"req_{number}"
        if request.is_streaming:
            return EchoStream(answer.events(), request_id, self._sleep, self._chunk_delay_s)
        return ProviderBody(_json(answer.body()), provider_request_id=request_id)

    async def list_models(self) -> Sequence[ProviderModel]:
        """Return the configured names that are not patterns, and examples of the patterns. Raises no provider error."""
        named = [name for name in self.models if not is_pattern(name)]
        examples = [name for name in _EXAMPLES if any(fnmatchcase(name, pattern) for pattern in self.models)]
        return [ProviderModel(name) for name in dict.fromkeys([*named, *examples])]


class EchoStream:
    """A ``ProviderStream`` over a list of events. Each read returns one event."""

    attempts = 1
    processing_ms = None

    def __init__(
        self,
        events: Sequence[StreamEvent],
        provider_request_id: str,
        sleep: Callable[[float], Awaitable[None]],
        chunk_delay_s: float,
    ) -> None:
        self.provider_request_id = provider_request_id
        self._events = events
        self._sleep = sleep
        self._chunk_delay_s = chunk_delay_s
        self._closed = False

    async def __aiter__(self) -> AsyncIterator[Sequence[StreamEvent]]:
        for number, event in enumerate(self._events):
            if number:
                await self._sleep(self._chunk_delay_s)
            if self._closed:
                return
            yield (event,)

    def pass_to(self, take: Callable[[Sequence[StreamEvent]], bool] | None) -> None:
        """Do nothing; see ``ProviderStream``."""

    async def aclose(self) -> None:
        """End the stream."""
        self._closed = True


class _Answer(Protocol):
    """The response to one request, as a body and as a stream."""

    def body(self) -> dict[str, Any]: ...

    def events(self) -> list[StreamEvent]: ...


@dataclass(frozen=True, slots=True)
class _ChatEcho:
    request: dict[str, Any]
    number: str
    created: int
    tokens: Sequence[str]
    prompt_tokens: int

    @classmethod
    def to(cls, request: dict[str, Any], number: str, created: int) -> _ChatEcho:
        messages = request["messages"]
        user_texts = (text_of(message.get("content")) for message in reversed(messages) if message["role"] == "user")
        prompt_tokens = sum(len(_tokens(text_of(message.get("content")))) for message in messages)
        return cls(request, number, created, _tokens(next(user_texts, "")), prompt_tokens)

    def events(self) -> list[StreamEvent]:
        options = self.request.get("stream_options") or {}
        events = [_event(chunk) for chunk in self._chunks(with_usage=options.get("include_usage") is True)]
        return [*events, StreamEvent(b"data: [DONE]\n\n", b"[DONE]")]

    def body(self) -> dict[str, Any]:
        message = {"role": "assistant", "content": "".join(self.tokens), "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        return {**self._frame("chat.completion", [choice]), "usage": self._usage()}

    def _chunks(self, *, with_usage: bool) -> list[dict[str, Any]]:
        deltas: list[tuple[dict[str, str], str | None]] = [({"role": "assistant", "content": ""}, None)]
        deltas += [({"content": token}, None) for token in self.tokens]
        deltas.append(({}, "stop"))
        chunks = [self._chunk([_chunk_choice(delta, reason)]) for delta, reason in deltas]
        if with_usage:
            chunks = [{**chunk, "usage": None} for chunk in chunks]
            chunks.append({**self._chunk([]), "usage": self._usage()})
        return chunks

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return self._frame("chat.completion.chunk", choices)

    def _frame(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{self.number}",
            "object": kind,
            "created": self.created,
            "model": self.request["model"],
            "system_fingerprint": "echo",
            "choices": choices,
        }

    def _usage(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": len(self.tokens),
            "total_tokens": self.prompt_tokens + len(self.tokens),
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        }


def _chunk_choice(delta: dict[str, str], finish_reason: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def _tokens(text: str) -> list[str]:
    return _WORDS.findall(text)


@dataclass(frozen=True, slots=True)
class _ResponsesEcho:
    echo: ResponsesEcho

    @classmethod
    def to(cls, request: dict[str, Any], number: str, created: int) -> _ResponsesEcho:
        texts = input_texts(request)
        user_texts = (text for role, text in reversed(texts) if role == "user")
        return cls(ResponsesEcho(number, created, request, _tokens(next(user_texts, "")), _count(texts)))

    def body(self) -> dict[str, Any]:
        return self.echo.response()

    def events(self) -> list[StreamEvent]:
        return [_event(event, event["type"]) for event in self.echo.events()]


@dataclass(frozen=True, slots=True)
class _Body:
    """A response that is never streamed."""

    content: dict[str, Any]

    def body(self) -> dict[str, Any]:
        return self.content

    def events(self) -> list[StreamEvent]:
        return [_event(self.content)]


def _input_tokens(request: dict[str, Any], _number: str, _created: int) -> _Body:
    return _Body({"object": "response.input_tokens", "input_tokens": _count(input_texts(request))})


def _embeddings(request: dict[str, Any], _number: str, _created: int) -> _Body:
    given = request.get("input")
    inputs = given if isinstance(given, list) else [given]
    encode = _base64 if request.get("encoding_format") == "base64" else list
    vectors = [_vector(json.dumps(one)) for one in inputs]
    tokens = sum(len(_tokens(one)) if isinstance(one, str) else 1 for one in inputs)
    return _Body(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": encode(vector)}
                for index, vector in enumerate(vectors)
            ],
            "model": request["model"],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    )


def _vector(text: str) -> array[float]:
    """Return eight numbers from -1 to 1 that depend only on the text."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return array("f", [byte / 127.5 - 1 for byte in digest[:_DIMENSIONS]])


def _base64(vector: array[float]) -> str:
    """Return the numbers as little-endian 32-bit floats in base64, OpenAI's ``encoding_format``."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")


_ANSWERS: Final[Mapping[str, Callable[[dict[str, Any], str, int], _Answer]]] = {
    "chat.completions": _ChatEcho.to,
    "responses": _ResponsesEcho.to,
    "responses.input_tokens": _input_tokens,
    "embeddings": _embeddings,
}


def _count(texts: Sequence[tuple[str, str]]) -> int:
    return sum(len(_tokens(text)) for _, text in texts)


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")  # escaped, so that lone surrogates survive


def _event(content: dict[str, Any], name: str | None = None) -> StreamEvent:
    data = _json(content)
    field = b"" if name is None else b"event: %b\n" % name.encode("ascii")
    return StreamEvent(field + b"data: " + data + b"\n\n", data)
