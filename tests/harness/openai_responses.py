"""The default responses of a scripted provider in the Responses API, and their events, as bytes."""

from __future__ import annotations

import json
from itertools import count
from typing import TYPE_CHECKING, Any

from harness.openai_wire import JSON_TYPE, Script, answer, stream

if TYPE_CHECKING:
    from collections.abc import Sequence

USAGE = {
    "input_tokens": 9,
    "input_tokens_details": {"cached_tokens": 4},
    "output_tokens": 2,
    "output_tokens_details": {"reasoning_tokens": 1},
    "total_tokens": 11,
}
_numbers = count(1)


def response_object(request: dict[str, Any], output: list[dict[str, Any]], **members: Any) -> dict[str, Any]:
    """Return a completed response that repeats the instructions of the request, as OpenAI does."""
    return {
        "id": f"resp_{next(_numbers):08d}",
        "object": "response",
        "created_at": 1_767_323_045,
        "status": "completed",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": request.get("instructions"),
        "max_output_tokens": None,
        "model": request.get("model"),
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": request.get("previous_response_id"),
        "reasoning": {"effort": None, "summary": None},
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto",
        "tools": request.get("tools") or [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": USAGE,
        "user": None,
        "metadata": {},
        **members,
    }


def message_item(*texts: str, status: str = "completed") -> dict[str, Any]:
    """Return an output item: a message with these texts."""
    content = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []} for text in texts]
    return {"id": "msg_scripted", "type": "message", "status": status, "role": "assistant", "content": content}


def call_item(name: str, arguments: str) -> dict[str, Any]:
    """Return an output item: the call of a function."""
    return {
        "id": "fc_scripted",
        "type": "function_call",
        "status": "completed",
        "call_id": "call_scripted",
        "name": name,
        "arguments": arguments,
    }


def typed_event(event: dict[str, Any]) -> bytes:
    """Return an event of a stream, named by its type."""
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


def response_events(response: dict[str, Any], pieces: Sequence[str]) -> list[bytes]:
    """Return the events of a whole stream. The pieces are those of the first item's text or arguments."""
    begun = {**response, "status": "in_progress", "output": [], "usage": None}
    item = response["output"][0]
    at = {"item_id": item["id"], "output_index": 0}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
    ]
    if item["type"] == "message":
        empty = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        text = {**at, "content_index": 0}
        events += [
            {"type": "response.output_item.added", "output_index": 0, "item": message_item(status="in_progress")},
            {"type": "response.content_part.added", **text, "part": empty},
            *({"type": "response.output_text.delta", **text, "delta": piece, "logprobs": []} for piece in pieces),
            {"type": "response.output_text.done", **text, "text": "".join(pieces), "logprobs": []},
            {"type": "response.content_part.done", **text, "part": item["content"][0]},
        ]
    else:
        events += [
            {"type": "response.output_item.added", "output_index": 0, "item": {**item, "arguments": ""}},
            *({"type": "response.function_call_arguments.delta", **at, "delta": piece} for piece in pieces),
            {"type": "response.function_call_arguments.done", **at, "arguments": item["arguments"]},
        ]
    events.append({"type": "response.output_item.done", "output_index": 0, "item": item})
    ends = {"completed": "response.completed", "incomplete": "response.incomplete", "failed": "response.failed"}
    events.append({"type": ends[response["status"]], "response": response})
    return [typed_event({"sequence_number": number, **event}) for number, event in enumerate(events)]


def responses_script(request: dict[str, Any], item: dict[str, Any], pieces: Sequence[str]) -> Script:
    """Answer a request for a response with this output item, buffered or as a stream in these pieces."""
    response = response_object(request, [item])
    if request.get("stream"):
        return stream(*response_events(response, pieces))
    return answer(200, json.dumps(response, indent=2).encode() + b"\n", JSON_TYPE)
