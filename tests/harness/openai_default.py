"""The scripted provider's default response to a request without a script: a plausible completion."""

from __future__ import annotations

import base64
import json
import struct
from typing import TYPE_CHECKING, Any

from harness.openai_responses import call_item, message_item, responses_script
from harness.openai_wire import (
    JSON_TYPE,
    Script,
    answer,
    completion_object,
    error,
    model_list,
    model_object,
    stream,
    stream_events,
    text_deltas,
    tool_call,
)

if TYPE_CHECKING:
    from collections.abc import Callable

TEXT_PIECES = ("Scripted", " answer", " naïvely 🙂", ".")
MODELS = ("gpt-4o", "gpt-4o-mini", "whisper-1", "ft:gpt-4o-mini:acme::x")
PLAIN = {"string": "scripted", "integer": 1, "number": 1.5, "boolean": True, "null": None}


def default_script(path: str, body: bytes) -> Script:
    """Answer a request as OpenAI's API would, by its stream, tools and response_format members."""
    if path.endswith("/models"):
        return model_list(*(model_object(name) for name in MODELS))
    endpoint = next((endpoint for end, endpoint in _ENDPOINTS.items() if path.endswith(end)), None)
    if endpoint is None:
        return error(404, "Unknown request URL.")
    try:
        request = json.loads(body)
    except ValueError:
        return error(400, "We could not parse the JSON body of your request.")
    return endpoint(request if isinstance(request, dict) else {})


def _completion(request: dict[str, Any]) -> Script:
    if not request.get("messages"):
        return error(400, "Missing required parameter: 'messages'.", param="messages")
    if request.get("stream"):
        return _streamed(request)
    message, finish_reason = _message(request)
    completion = completion_object(message, finish_reason, str(request.get("model")))
    return answer(200, json.dumps(completion, indent=2).encode() + b"\n", JSON_TYPE)


def _response(request: dict[str, Any]) -> Script:
    tools = [tool for tool in request.get("tools") or [] if tool.get("type") == "function"]
    results = [item for item in request.get("input") or () if isinstance(item, dict) and item.get("type") == _RESULT]
    if tools and request.get("tool_choice") != "none" and not results:
        arguments = json.dumps(instance_of(tools[0].get("parameters") or {}))
        return responses_script(request, call_item(tools[0]["name"], arguments), [arguments])
    wanted = (request.get("text") or {}).get("format") or {}
    pieces: tuple[str, ...] = TEXT_PIECES
    if wanted.get("type") == "json_schema":
        pieces = (json.dumps(instance_of(wanted.get("schema") or {})),)
    return responses_script(request, message_item("".join(pieces)), pieces)


def _input_tokens(_request: dict[str, Any]) -> Script:
    return answer(200, b'{"object": "response.input_tokens", "input_tokens": 9}', JSON_TYPE)


def _embeddings(request: dict[str, Any]) -> Script:
    given = request.get("input")
    inputs = given if isinstance(given, list) else [given]
    vector: object = [0.5, -0.25]
    if request.get("encoding_format") == "base64":
        vector = base64.b64encode(struct.pack("<2f", 0.5, -0.25)).decode()
    data = [{"object": "embedding", "index": index, "embedding": vector} for index in range(len(inputs))]
    usage = {"prompt_tokens": 9, "total_tokens": 9}
    content = {"object": "list", "data": data, "model": request.get("model"), "usage": usage}
    return answer(200, json.dumps(content).encode(), JSON_TYPE)


_ENDPOINTS: dict[str, Callable[[dict[str, Any]], Script]] = {
    "/chat/completions": _completion,
    "/responses": _response,
    "/responses/input_tokens": _input_tokens,
    "/embeddings": _embeddings,
}
_RESULT = "function_call_output"


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
    """Return an instance of a JSON schema, for the schemas that structured outputs allow."""
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
