"""The provider behind IBEX for `make clients`: the scripted one, which here also answers tool results."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from harness.openai import ScriptedOpenAI
from harness.openai_default import TEXT_PIECES, default_script
from harness.openai_responses import call_item, message_item, responses_script
from harness.openai_wire import (
    JSON_TYPE,
    Close,
    Send,
    answer,
    completion_object,
    error,
    stream,
    stream_events,
    text_deltas,
)

if TYPE_CHECKING:
    from harness.openai import RecordedRequest
    from harness.openai_wire import Script, Step

REFUSED_MODEL: Final = "gpt-refused"
"""A model for which the provider refuses every request."""
INTERRUPTED_MODEL: Final = "gpt-interrupted"
"""A model whose streams the provider cuts after their first piece of text."""
REFUSAL_CODE: Final = "context_length_exceeded"
AFTER_THE_TOOL: Final = "The tool returned: "
CODEX_TOOL: Final = "exec_command"
COMMAND: Final = "echo ibex-$((40 + 2))"
"""The command that Codex is told to run; its output is not in it."""


@dataclass(slots=True)
class ClientsProvider(ScriptedOpenAI):
    """A scripted provider whose responses depend on the model, the tools and the tool results."""

    def script_for(self, request: RecordedRequest) -> Script:
        """Record a request and return the script for it."""
        default = ScriptedOpenAI.script_for(self, request)
        asked = _object(request.body)
        if asked.get("model") == REFUSED_MODEL:
            return error(400, "This model's context is too short.", code=REFUSAL_CODE, param="messages")
        script = None
        if request.path.endswith("/responses"):
            script = _response(asked)
        elif request.path.endswith("/chat/completions"):
            script = _completion(asked)
        return _interrupted(script or default) if asked.get("model") == INTERRUPTED_MODEL else script or default


def _object(body: bytes) -> dict[str, Any]:
    asked = json.loads(body) if body else {}
    return asked if isinstance(asked, dict) else {}


def _interrupted(whole: Script) -> Script:
    """Return a stream that closes the connection after its first piece of text."""
    sent: list[Step] = []
    for step in whole:
        sent.append(step)
        if isinstance(step, Send) and f'"{TEXT_PIECES[0]}"'.encode() in step.data:
            return (*sent, Close())
    raise ValueError("a request for a stream is what can be interrupted")


def _completion(asked: dict[str, Any]) -> Script | None:
    last = asked["messages"][-1]
    if last["role"] != "tool":
        return None
    pieces = (AFTER_THE_TOOL, _text(last["content"]))
    if asked.get("stream"):
        usage = bool((asked.get("stream_options") or {}).get("include_usage"))
        return stream(*stream_events(text_deltas(*pieces), usage=usage))
    completion = completion_object({"content": "".join(pieces)}, model=asked["model"])
    return answer(200, json.dumps(completion).encode(), JSON_TYPE)


def _response(asked: dict[str, Any]) -> Script | None:
    items = [item for item in asked.get("input") or () if isinstance(item, dict)]
    results = [item for item in items if item.get("type") == "function_call_output"]
    if results:
        pieces = (AFTER_THE_TOOL, _text(results[-1]["output"]))
        return responses_script(asked, message_item("".join(pieces)), pieces)
    tools = [tool.get("name") for tool in asked.get("tools") or ()]
    if CODEX_TOOL not in tools:
        return None
    if not any(COMMAND in json.dumps(item) for item in items):  # a turn without a tool
        return default_script("/responses", json.dumps(asked | {"tools": []}).encode())
    arguments = json.dumps({"cmd": COMMAND})
    return responses_script(asked, call_item(CODEX_TOOL, arguments), [arguments])


def _text(content: Any) -> str:
    """Return the text of a tool's result, which is a string or a list of parts."""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
