"""A reader for buffered responses that pass through unchanged: embeddings, token counts, lists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from ibex.adapters.openai_api.response_fields import json_object, stored_name, usage_of
from ibex.domain.proxying.operation import MalformedResponseError
from ibex.domain.record.summary import ResponseSummary, Usage

if TYPE_CHECKING:
    from ibex.domain.proxying.provider import StreamEvent


class _Response(msgspec.Struct):
    model: Any = None
    usage: Any = None
    error: Any = None


_decoder = msgspec.json.Decoder(_Response)


class PlainResponseReader:
    """A ``ResponseReader`` that extracts model and usage, if the response reports them."""

    forwards_trailing_events = False
    is_complete = True

    def __init__(self) -> None:
        self.has_ended = False
        self.failed = False
        self._model: str | None = None
        self._usage = Usage()

    def read_body(self, body: bytes) -> bytes:
        """Read a buffered response; see ``ResponseReader``."""
        try:
            response = _decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            found = json_object(body)  # unlike msgspec, accepts lone surrogates and NaN
            if found is None:
                raise MalformedResponseError from None
            response = _Response(found.get("model"), found.get("usage"), found.get("error"))
        if response.error:
            raise MalformedResponseError
        if isinstance(response.model, str):
            self._model = stored_name(response.model)
        if isinstance(response.usage, dict):
            self._usage = usage_of(response.usage)
        return body

    def read_event(self, event: StreamEvent) -> bytes:
        """Return the event unchanged; see ``ResponseReader``."""
        return event.raw

    def error_event(self, envelope: bytes) -> bytes:
        """Return the error as an event; see ``ResponseReader``."""
        return b"data: " + envelope + b"\n\n"

    def summary(self) -> ResponseSummary:
        """Return the summary of the response."""
        return ResponseSummary(self._model, self._usage)
