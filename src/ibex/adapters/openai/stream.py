"""A streamed response of OpenAI's API: its events, as they arrive."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ibex.adapters.http_client.failures import FAILURES
from ibex.adapters.openai.errors import AttemptInfo, error_from_exception
from ibex.adapters.openai_api.responses_response import TERMINAL_EVENTS
from ibex.adapters.openai_api.server_sent_events import DONE, EventSplitter, unterminated_event

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ibex.adapters.http_client.response_body import ResponseBody
    from ibex.domain.errors import IbexError
    from ibex.domain.proxying.provider import StreamEvent


class OpenAIStream:
    """A ``ProviderStream`` over the body of a response. It owns the body and closes it.

    ``first`` is the part of the body that has been read already.
    """

    def __init__(self, body: ResponseBody, attempt: AttemptInfo, first: bytes = b"") -> None:
        self.attempts = attempt.attempts
        self.provider_request_id = attempt.provider_request_id
        self.processing_ms = attempt.processing_ms
        self._body = body
        self._attempt = attempt
        self._splitter = EventSplitter()
        self._first = first
        self._take: Callable[[Sequence[StreamEvent]], bool] | None = None
        self._refused: list[StreamEvent] = []
        self._refused_bytes = 0
        self._done = False
        self._last_data: bytes | None = None
        self._ended = False
        self._failure: IbexError | None = None

    def __aiter__(self) -> OpenAIStream:
        return self

    async def __anext__(self) -> Sequence[StreamEvent]:
        while not self._ended:
            events = await self._read()
            if events:
                return events
        failure, self._failure = self._failure, None
        if failure is None:
            raise StopAsyncIteration
        try:
            raise failure
        finally:
            del failure  # break the reference cycle: its traceback contains this frame

    def pass_to(self, take: Callable[[Sequence[StreamEvent]], bool] | None) -> None:
        """Pass the events that arrive while a read waits to ``take``; see ``ProviderStream``."""
        self._take = take
        self._body.pass_to(None if take is None else self._pass)

    def _pass(self, chunk: bytes) -> bool:
        events = self._split(chunk)
        if not events or (self._take is not None and self._take(events)):
            return True
        self._refused, self._refused_bytes = events, len(chunk)
        return False

    async def aclose(self) -> None:
        """Stop the provider, or drain the few bytes after ``[DONE]``; see ``ProviderStream``."""
        was_stopped = not self._ended
        self._ended = True
        self._failure = None
        self.pass_to(None)
        await self._body.aclose(drain=was_stopped and self._done)

    async def _read(self) -> list[StreamEvent]:
        first, self._first = self._first, b""
        try:
            chunk = first or await self._body.read()
        except FAILURES as failure:
            if self._ended:  # closed during the read
                return []
            self._ended = True
            self._failure = error_from_exception(failure, self._attempt)
            return self._splitter.finish(cut=True)
        if chunk is not None:
            return self._split(chunk)
        events = self._splitter.finish()
        self._ended = True
        if events and events[-1].data is None and not events[-1].is_piece:
            events[-1] = unterminated_event(events[-1].raw)
        self._note(events)
        if not self._done and not _ends_typed_stream(self._last_data):
            await self._body.discard_connection()  # more data may follow the end of its framing
        return events

    def _split(self, chunk: bytes) -> list[StreamEvent]:
        """Return the events of a chunk. They begin with those that ``_take`` refused, whose bytes it begins with."""
        refused, rest = self._refused, chunk[self._refused_bytes :]
        self._refused, self._refused_bytes = [], 0
        if refused and not rest:
            return refused
        events = self._splitter.feed(rest)
        self._note(events)
        return refused + events if refused else events

    def _note(self, events: list[StreamEvent]) -> None:
        for event in events:
            if event.data == DONE:
                self._done = True
        if events:
            self._last_data = events[-1].data


class _TypedEvent(msgspec.Struct):
    type: str = ""


_typed_event_decoder = msgspec.json.Decoder(_TypedEvent)


def _ends_typed_stream(data: bytes | None) -> bool:
    """Return whether the event with these data ends a stream of the Responses API."""
    try:
        return _typed_event_decoder.decode(data or b"").type in TERMINAL_EVENTS
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
