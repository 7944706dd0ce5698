"""A streamed response of OpenAI's API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ibex.adapters.http_client.failures import FAILURES
from ibex.adapters.openai.errors import error_from_exception
from ibex.adapters.openai_api.chat_response import DONE
from ibex.adapters.openai_api.server_sent_events import EventSplitter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ibex.adapters.http_client.response_body import ResponseBody
    from ibex.adapters.openai.errors import AttemptInfo
    from ibex.domain.errors import IbexError
    from ibex.domain.proxying.provider import StreamEvent


class OpenAIStream:
    """A ``ProviderStream`` over the body of a response. It owns the body and closes it."""

    def __init__(self, body: ResponseBody, attempt: AttemptInfo) -> None:
        self.attempts = attempt.attempts
        self.provider_request_id = attempt.provider_request_id
        self._body = body
        self._attempt = attempt
        self._splitter = EventSplitter()
        self._done = False
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

    async def aclose(self) -> None:
        """Stop the provider, or drain the few bytes after ``[DONE]``; see ``ProviderStream``."""
        was_stopped = not self._ended
        self._ended = True
        self._failure = None
        await self._body.aclose(drain=was_stopped and self._done)

    async def _read(self) -> list[StreamEvent]:
        try:
            chunk = await self._body.read()
        except FAILURES as failure:
            if self._ended:  # closed during the read
                return []
            self._ended = True
            self._failure = error_from_exception(failure, self._attempt)
            return self._splitter.finish(cut=True)
        if chunk is not None:
            events = self._splitter.feed(chunk)
        else:
            events = self._splitter.finish()
            self._ended = True
        for event in events:
            if event.data == DONE:
                self._done = True
        if self._ended and not self._done:
            await self._body.discard_connection()
        return events
