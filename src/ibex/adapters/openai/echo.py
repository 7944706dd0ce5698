"""The built-in provider for use without an API key: it repeats the user's message, in OpenAI's wire format."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

from ibex.adapters.openai.config import DEFAULT_MODELS
from ibex.domain.proxying.provider import ProviderBody, StreamEvent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from ibex.domain.clock import Clock
    from ibex.domain.proxying.provider import ProviderRequest

_WORDS = re.compile(r"\s*\S+|\s+$")


class EchoProvider:
    """A ``Provider`` that responds with the text of the last user message. Without one, the text is empty.

    A token is a word with the white space before it; the prompt tokens are those of the texts of all messages. A
    response has one choice, which is text, whatever the request sets for ``n``, tools or ``response_format``. A stream
    has one event per token. The text parts of a message are joined; other parts are ignored.
    """

    name = "echo"
    reports_stream_usage = True

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
        echo = self._echo(request.model, payload["messages"])
        await self._sleep(self._first_byte_delay_s)
        request_id = f"req_{echo.number}"
        if request.is_streaming:
            events = [_event(chunk) for chunk in echo.chunks(with_usage=_wants_usage(payload))]
            events.append(StreamEvent(b"data: [DONE]\n\n", b"[DONE]"))
            return EchoStream(events, request_id, self._sleep, self._chunk_delay_s)
        return ProviderBody(_json(echo.completion()), provider_request_id=request_id)

    def _echo(self, model: str, messages: Sequence[dict[str, Any]]) -> _Echo:
        now = self._clock.now()
        user_texts = (_text(message) for message in reversed(messages) if message["role"] == "user")
        return _Echo(
            number=f"{int(now.timestamp() * 1_000_000):x}{next(self._numbers):06x}",
            created=int(now.timestamp()),
            model=model,
            tokens=_tokens(next(user_texts, "")),
            prompt_tokens=sum(len(_tokens(_text(message))) for message in messages),
        )


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

    async def aclose(self) -> None:
        """End the stream."""
        self._closed = True


@dataclass(frozen=True, slots=True)
class _Echo:
    number: str
    created: int
    model: str
    tokens: Sequence[str]
    prompt_tokens: int

    def completion(self) -> dict[str, Any]:
        message = {"role": "assistant", "content": "".join(self.tokens), "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        return {**self._frame("chat.completion", [choice]), "usage": self._usage()}

    def chunks(self, *, with_usage: bool) -> list[dict[str, Any]]:
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
            "model": self.model,
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


def _wants_usage(payload: dict[str, Any]) -> bool:
    return (payload.get("stream_options") or {}).get("include_usage") is True


def _text(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else ()
    texts = (part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text")
    return "".join(text for text in texts if isinstance(text, str))


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")  # escaped, so that lone surrogates survive


def _event(chunk: dict[str, Any]) -> StreamEvent:
    data = _json(chunk)
    return StreamEvent(b"data: " + data + b"\n\n", data)
