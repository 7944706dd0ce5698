"""A reader for chat completion responses: it extracts usage, finish reason and a hash of the text on the way.

It keeps no text: the text of each choice goes through a running hash (``text_hash``).
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from ibex.adapters.openai_api.chunk_template import ChunkTemplate, chunk_template_of
from ibex.adapters.openai_api.lenient_end import LenientEnd
from ibex.adapters.openai_api.response_fields import json_object, stored_name, usage_of
from ibex.adapters.openai_api.server_sent_events import DONE
from ibex.adapters.openai_api.text_hash import TextHash, TextHashes
from ibex.domain.proxying.operation import MalformedResponseError
from ibex.domain.record.summary import ResponseSummary, Usage

if TYPE_CHECKING:
    from ibex.domain.proxying.provider import StreamEvent

_ERROR_NAME: Final = b"error"


class EventKind(Enum):
    """The kinds of events that the proxy distinguishes."""

    DATA = "data"
    USAGE_ONLY = "usage_only"
    ERROR = "error"
    DONE = "done"


class ChatResponseReader:
    """The ``ResponseReader`` of chat completions."""

    forwards_trailing_events = False

    def __init__(self, *, hides_usage: bool = False, has_lenient_end: bool = False) -> None:
        """Set whether to hide the event that contains only usage, because the proxy and not the client asked for it.

        ``has_lenient_end`` is that of the provider's ``Dialect``.
        """
        self._hides_usage = hides_usage
        self._lenient_end = LenientEnd() if has_lenient_end else None
        self._raw_model: str | None = None
        self._model: str | None = None
        self._usage = Usage()
        self._finish_reason: str | None = None
        self._texts = TextHashes[int]()
        self._template: tuple[ChunkTemplate, TextHash] | None = None
        self.has_ended = False
        self.failed = False

    @property
    def is_complete(self) -> bool:
        """Whether a finish reason has been read. With a lenient end, text or complete tool calls are enough."""
        if self._finish_reason is not None or self._lenient_end is None:
            return self._finish_reason is not None
        return self._lenient_end.is_reached(has_text=bool(self._texts))

    def read_body(self, body: bytes) -> bytes:
        """Read a buffered response; see ``ResponseReader``."""
        response = json_object(body)
        if response is None or response.get("error"):
            raise MalformedResponseError
        self._read_object(response, "message")
        choices = response.get("choices")
        if type(choices) is not list or not choices:
            self.failed = True
        return body

    def read_event(self, event: StreamEvent) -> bytes:
        """Read an event; see ``ResponseReader``."""
        data = event.data
        if event.name is not None and event.name == _ERROR_NAME:  # regardless of its data
            self.failed = True
        elif data is not None:
            kind = self.read_data(data)
            if kind is EventKind.DATA:
                return event.raw
            if kind is EventKind.DONE:
                self.has_ended = True
            elif kind is EventKind.USAGE_ONLY and self._hides_usage:
                return b""
        elif self._lenient_end is not None:
            self._lenient_end.read_without_data(event.raw)
        return event.raw

    def read_data(self, data: bytes) -> EventKind:
        """Read the data of one event and return what kind of event it is."""
        if self._template is not None:
            template, hashed = self._template
            text = template.text_of(data)
            if text is not None:
                if text:
                    hashed.add(text)
                return EventKind.DATA
        if data.startswith(DONE):  # OpenAI's SDKs compare the start of the data too, and read no further
            return EventKind.DONE
        event = json_object(data)
        if event is None:
            return EventKind.DATA
        error = event.get("error")
        if error or type(error) is dict or event.get("object") == "error":
            self.failed = True
            return EventKind.ERROR
        was_finished = self._finish_reason is not None
        self._read_object(event, "delta")
        if event.get("usage") is None:  # all events but the last
            self._derive_template(data, event)
            return EventKind.DATA
        return EventKind.USAGE_ONLY if _is_usage_only(event, was_finished=was_finished) else EventKind.DATA

    def _derive_template(self, data: bytes, event: dict[str, Any]) -> None:
        """Derive the template of the next events if this one holds only a text of one choice.

        A text with escapes yields no template; the previous one stays in use.
        """
        choices = event.get("choices")
        if type(choices) is not list or len(choices) != 1 or type(choices[0]) is not dict:
            return
        choice = choices[0]
        delta, index = choice.get("delta"), choice.get("index")
        text = delta.get("content") if type(delta) is dict else None
        if self._lenient_end is not None and type(delta) is dict and delta.get("tool_calls"):
            return  # every tool call must be read
        if type(text) is str and text and type(index) is int and choice.get("finish_reason") is None:
            hashed, template = self._texts.get(index), chunk_template_of(data, text)
            if hashed is not None and template is not None:
                self._template = template, hashed

    def _read_object(self, response: dict[str, Any], text_holder: str) -> None:
        """Read a response or a chunk. ``text_holder`` is the member of a choice that holds its text."""
        model = response.get("model")
        if model != self._raw_model and type(model) is str:
            self._raw_model, self._model = model, stored_name(model)
            self._template = None  # it contains the previous model
        choices = response.get("choices")
        usage = response.get("usage")
        if usage is None:
            usage = _usage_elsewhere(response, choices)
        if type(usage) is dict:
            self._usage = usage_of(usage)
        for choice in choices if type(choices) is list else ():
            if type(choice) is dict:
                self._read_choice(choice, text_holder)

    def _read_choice(self, choice: dict[str, Any], text_holder: str) -> None:
        reason = choice.get("finish_reason")
        if type(reason) is str:
            self._finish_reason = stored_name(reason)
            if reason == "error":  # OpenRouter's way to say that the model failed
                self.failed = True
        holder = choice.get(text_holder)
        if type(holder) is not dict:
            return
        index = choice.get("index")
        key = index if isinstance(index, int) else 0
        if self._lenient_end is not None:
            self._lenient_end.read_delta(key, holder)
        text = holder.get("content")
        if type(text) is str and text:
            self._texts.add(key, text)

    def error_event(self, envelope: bytes) -> bytes:
        """Return the error as an event; see ``ResponseReader``."""
        return b"data: " + envelope + b"\n\n"

    def summary(self) -> ResponseSummary:
        """Return the summary of what has been read so far."""
        return ResponseSummary(self._model, self._usage, self._finish_reason, self._texts.hexdigest())


def _is_usage_only(event: dict[str, Any], *, was_finished: bool) -> bool:
    """Return whether a chunk contains only usage: no choices, or only empty choices after the finish reason.

    OpenAI sends the former; LiteLLM's proxy sends ``[{"index":0,"delta":{}}]``.
    """
    choices = event.get("choices")
    if not isinstance(event.get("usage"), dict) or not isinstance(choices, list):
        return False
    return not choices or (was_finished and all(map(_is_empty_choice, choices)))


def _is_empty_choice(choice: object) -> bool:
    if not isinstance(choice, dict):
        return False
    return all(name == "index" or value is None or (name, value) == ("delta", {}) for name, value in choice.items())


def _usage_elsewhere(response: dict[str, Any], choices: object) -> object:
    """Return the usage where Groq and Moonshot put it; None if it is not there."""
    holder = response.get("x_groq")
    if holder is None and type(choices) is list and choices:
        holder = choices[0]
    return holder.get("usage") if type(holder) is dict else None
