"""The echo provider's responses in the format of the Responses API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence


_TEXT_TYPES: Final = ("text", "input_text", "output_text")


@dataclass(frozen=True, slots=True)
class ResponsesEcho:
    """A response that repeats the text of the last user message, one token after the other."""

    number: str
    created: int
    request: dict[str, Any]
    tokens: Sequence[str]
    input_tokens: int

    def response(self) -> dict[str, Any]:
        """Return the response."""
        return self._response("completed", [self._message("completed", [self._part(self._text())])], self._usage())

    def events(self) -> list[dict[str, Any]]:
        """Return the typed events of the stream, in order."""
        part = {"item_id": f"msg_{self.number}", "output_index": 0, "content_index": 0}
        text = self._text()
        begun = self._response("in_progress", [], None)
        events: list[dict[str, Any]] = [
            {"type": "response.created", "response": begun},
            {"type": "response.in_progress", "response": begun},
            {"type": "response.output_item.added", "output_index": 0, "item": self._message("in_progress", [])},
            {"type": "response.content_part.added", **part, "part": self._part("")},
        ]
        events += [
            {"type": "response.output_text.delta", **part, "delta": token, "logprobs": []} for token in self.tokens
        ]
        events += [
            {"type": "response.output_text.done", **part, "text": text, "logprobs": []},
            {"type": "response.content_part.done", **part, "part": self._part(text)},
            {
                "type": "response.output_item.done",
                "output_index": 0,
                "item": self._message("completed", [self._part(text)]),
            },
            {"type": "response.completed", "response": self.response()},
        ]
        return [{**event, "sequence_number": number} for number, event in enumerate(events)]

    def _text(self) -> str:
        return "".join(self.tokens)

    def _part(self, text: str) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    def _message(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": f"msg_{self.number}",
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": content,
        }

    def _response(self, status: str, output: list[dict[str, Any]], usage: dict[str, Any] | None) -> dict[str, Any]:
        asked = self.request
        return {
            "id": f"resp_{self.number}",
            "object": "response",
            "created_at": self.created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": asked.get("instructions"),
            "max_output_tokens": None,
            "metadata": asked.get("metadata") or {},
            "model": asked["model"],
            "output": output,
            "parallel_tool_calls": True,
            "previous_response_id": asked.get("previous_response_id"),
            "reasoning": {"effort": None, "summary": None},
            "store": asked.get("store") is not False,
            "temperature": asked.get("temperature", 1.0),
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_p": asked.get("top_p", 1.0),
            "truncation": "disabled",
            "usage": usage,
        }

    def _usage(self) -> dict[str, Any]:
        return {
            "input_tokens": self.input_tokens,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": len(self.tokens),
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self.input_tokens + len(self.tokens),
        }


def input_texts(request: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the role and text of the instructions, if any, and of each message in the input, in order."""
    texts: list[tuple[str, str]] = []
    if isinstance(request.get("instructions"), str):
        texts.append(("system", request["instructions"]))
    given = request.get("input")
    if isinstance(given, str):
        texts.append(("user", given))
    items = given if isinstance(given, list) else ()
    messages = (item for item in items if isinstance(item, dict) and isinstance(item.get("role"), str))
    return [*texts, *((message["role"], text_of(message.get("content"))) for message in messages)]


def text_of(content: object) -> str:
    """Return the text of a message's content: its text parts, joined. Other parts are ignored."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else ()
    texts = (part.get("text") for part in parts if isinstance(part, dict) and part.get("type") in _TEXT_TYPES)
    return "".join(text for text in texts if isinstance(text, str))
