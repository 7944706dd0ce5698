"""The two wire formats of ``ibex chat``: chat completions and the Responses API."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Protocol

_TEXT_DELTAS: Final = frozenset({"response.output_text.delta", "response.refusal.delta"})
_ENDS: Final = frozenset({"response.completed", "response.incomplete"})
_FAILURES: Final = frozenset({"failed", "cancelled"})
_FAILED: Final = "The response failed."


class FailedResponseError(Exception):
    """The response reports an error, whose message this is."""


@dataclass(slots=True)
class Answer:
    """A response, or the part of it that has arrived. ``cut_off`` is why it is incomplete, None if it is complete."""

    text: str = ""
    input_tokens: int | None = None
    output_tokens: int | None = None
    id: str | None = None
    cut_off: str | None = None


class WireFormat(Protocol):
    """A wire format, with what it must send of the earlier turns of a conversation."""

    path: str

    def request(self, prompt: str, *, stream: bool) -> dict[str, Any]:
        """Return the body of the request for the next turn."""

    def read_body(self, body: dict[str, Any]) -> Answer:
        """Return the answer in a buffered response. Raises ``FailedResponseError``."""

    def read_event(self, event: dict[str, Any], answer: Answer) -> str:
        """Add an event of a stream to the answer and return its text, if any. Raises ``FailedResponseError``."""

    def add_turn(self, prompt: str, answer: Answer) -> None:
        """Add a turn to the conversation."""


@dataclass(slots=True)
class ChatFormat:
    """Chat completions: each request repeats all messages of the conversation."""

    model: str
    path: str = "/v1/chat/completions"
    messages: list[dict[str, str]] = field(default_factory=list)

    def request(self, prompt: str, *, stream: bool) -> dict[str, Any]:
        """Return the body of the request for the next turn; see ``WireFormat``."""
        messages = [*self.messages, {"role": "user", "content": prompt}]
        body: dict[str, Any] = {"model": self.model, "messages": messages, "stream": stream}
        if stream:
            body["stream_options"] = {"include_usage": True}
        return body

    def read_body(self, body: dict[str, Any]) -> Answer:
        """Return the answer in a buffered response; see ``WireFormat``."""
        answer = Answer(body["choices"][0]["message"].get("content") or "")
        self._read_usage(body, answer)
        return answer

    def read_event(self, event: dict[str, Any], answer: Answer) -> str:
        """Add an event of a stream to the answer; see ``WireFormat``."""
        if event.get("error"):
            raise FailedResponseError(_message_of(event))
        self._read_usage(event, answer)
        text = "".join(choice["delta"].get("content") or "" for choice in event["choices"])
        answer.text += text
        return text

    def add_turn(self, prompt: str, answer: Answer) -> None:
        """Add a turn to the conversation; see ``WireFormat``."""
        self.messages += [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer.text}]

    def _read_usage(self, body: dict[str, Any], answer: Answer) -> None:
        usage = body.get("usage")
        if usage:
            answer.input_tokens, answer.output_tokens = usage.get("prompt_tokens"), usage.get("completion_tokens")


@dataclass(slots=True)
class ResponsesFormat:
    """The Responses API: a request names the previous response, which the provider has stored."""

    model: str
    path: str = "/v1/responses"
    previous_response_id: str | None = None

    def request(self, prompt: str, *, stream: bool) -> dict[str, Any]:
        """Return the body of the request for the next turn; see ``WireFormat``."""
        body: dict[str, Any] = {"model": self.model, "input": prompt, "stream": stream}
        if self.previous_response_id is not None:
            body["previous_response_id"] = self.previous_response_id
        return body

    def read_body(self, body: dict[str, Any]) -> Answer:
        """Return the answer in a buffered response; see ``WireFormat``."""
        if body.get("status") in _FAILURES:
            raise FailedResponseError(_message_of(body))
        parts = [part for item in body["output"] for part in item.get("content") or ()]
        answer = Answer("".join(part.get("text") or part.get("refusal") or "" for part in parts))
        self._read_end(body, answer)
        return answer

    def read_event(self, event: dict[str, Any], answer: Answer) -> str:
        """Add an event of a stream to the answer; see ``WireFormat``."""
        kind = event.get("type")
        if kind == "response.failed":
            raise FailedResponseError(_message_of(event["response"]))
        if kind == "error" or event.get("error"):
            raise FailedResponseError(_message_of(event))
        if kind in _ENDS:
            self._read_end(event["response"], answer)
        if kind not in _TEXT_DELTAS:
            return ""
        text: str = event["delta"]
        answer.text += text
        return text

    def add_turn(self, prompt: str, answer: Answer) -> None:  # noqa: ARG002 - the provider has stored it
        """Continue the conversation from this answer; see ``WireFormat``."""
        self.previous_response_id = answer.id

    def _read_end(self, response: dict[str, Any], answer: Answer) -> None:
        answer.id = response.get("id")
        usage = response.get("usage")
        if usage:
            answer.input_tokens, answer.output_tokens = usage.get("input_tokens"), usage.get("output_tokens")
        if response.get("status") == "incomplete":
            answer.cut_off = str((response.get("incomplete_details") or {}).get("reason") or "unknown reason")


def _message_of(body: dict[str, Any]) -> str:
    """Return the message of the error in a body or an event, which an event may also have outside of ``error``."""
    error = body.get("error")
    message = error.get("message") if isinstance(error, dict) else body.get("message")
    return message if isinstance(message, str) and message else _FAILED
