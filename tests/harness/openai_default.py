"""What a scripted provider answers to whom no script was given: a plausible completion of what was asked."""

from __future__ import annotations

import json
from typing import Any

from harness.openai_wire import (
    JSON_TYPE,
    Script,
    answer,
    completion_object,
    error,
    stream,
    stream_events,
    text_deltas,
    tool_call,
)

TEXT_PIECES = ("Scripted", " answer", " naïvely 🙂", ".")
PLAIN = {"string": "scripted", "integer": 1, "number": 1.5, "boolean": True, "null": None}


def default_script(path: str, body: bytes) -> Script:
    """Answer a request as OpenAI's API would: by its stream, tools and response_format members."""
    if not path.endswith("/chat/completions"):
        return error(404, "Unknown request URL.")
    try:
        request = json.loads(body)
    except ValueError:
        return error(400, "We could not parse the JSON body of your request.")
    if not isinstance(request, dict) or not request.get("messages"):
        return error(400, "Missing required parameter: 'messages'.", param="messages")
    if request.get("stream"):
        return _streamed(request)
    message, finish_reason = _message(request)
    completion = completion_object(message, finish_reason, str(request.get("model")))
    return answer(200, json.dumps(completion, indent=2).encode() + b"\n", JSON_TYPE)


def _streamed(request: dict[str, Any]) -> Script:
    message, finish_reason = _message(request)
    deltas: list[dict[str, Any]]
    if "tool_calls" in message:
        (call,) = message["tool_calls"]
        named = {**call, "index": 0, "function": {"name": call["function"]["name"], "arguments": ""}}
        filled = {"index": 0, "function": {"arguments": call["function"]["arguments"]}}
        deltas = [{"tool_calls": [named]}, {"tool_calls": [filled]}]
    elif message["content"] == "".join(TEXT_PIECES):
        deltas = [*text_deltas(*TEXT_PIECES)]
    else:
        deltas = [*text_deltas(message["content"])]
    options = request.get("stream_options") or {}
    return stream(*stream_events(deltas, finish_reason, usage=bool(options.get("include_usage"))))


def _message(request: dict[str, Any]) -> tuple[dict[str, Any], str]:
    tools = request.get("tools")
    if tools and request.get("tool_choice") != "none":
        function = tools[0]["function"]
        return tool_call(function["name"], json.dumps(instance_of(function.get("parameters", {})))), "tool_calls"
    response_format = request.get("response_format") or {}
    if response_format.get("type") == "json_schema":
        return {"content": json.dumps(instance_of(response_format["json_schema"].get("schema", {})))}, "stop"
    if response_format.get("type") == "json_object":
        return {"content": '{"scripted": true}'}, "stop"
    return {"content": "".join(TEXT_PIECES)}, "stop"


def instance_of(schema: dict[str, Any], root: dict[str, Any] | None = None) -> Any:
    """Return something of a JSON schema, of those that structured outputs allow."""
    root = schema if root is None else root
    if "$ref" in schema:
        return instance_of(_target(schema["$ref"], root), root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return instance_of(schema["anyOf"][0], root)
    kind = schema.get("type", "object")
    return _instance_of_kind(kind[0] if isinstance(kind, list) else kind, schema, root)


def _instance_of_kind(kind: str, schema: dict[str, Any], root: dict[str, Any]) -> Any:
    if kind == "object":
        return {name: instance_of(member, root) for name, member in schema.get("properties", {}).items()}
    if kind == "array":
        return [instance_of(schema["items"], root)] if "items" in schema else []
    return PLAIN[kind]


def _target(reference: str, root: dict[str, Any]) -> dict[str, Any]:
    target: Any = root
    for part in reference.removeprefix("#/").split("/"):
        target = target[part]
    return dict(target)
