"""openai for Python: chat completions and Responses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import openai
from pydantic import BaseModel

from clients.protocol import (
    BAD_TOKEN,
    INTERRUPTED_MODEL,
    MODEL,
    NEXT_QUESTION,
    PARAMETERS,
    QUESTION,
    REFUSED_MODEL,
    TOOL,
    TOOL_DESCRIPTION,
    UNKNOWN_MODEL,
    serve,
    weather,
)

if TYPE_CHECKING:
    from clients.protocol import Case

client = openai.OpenAI()
MESSAGES: list[Any] = [{"role": "user", "content": QUESTION}]
FUNCTION: dict[str, Any] = {"name": TOOL, "description": TOOL_DESCRIPTION, "parameters": PARAMETERS, "strict": True}
CHAT_TOOLS: list[Any] = [{"type": "function", "function": FUNCTION}]
TOOLS: list[Any] = [{"type": "function", **FUNCTION}]


class Ibex(BaseModel):
    """The schema of a structured response."""

    name: str
    legs: int


def chat() -> tuple[str, object]:
    """A completion."""
    completion = client.chat.completions.create(model=MODEL, messages=MESSAGES)
    return "chat.completions.create", {"text": completion.choices[0].message.content}


def chat_streaming() -> tuple[str, object]:
    """A streamed completion, with usage."""
    texts, tokens = [], None
    options: Any = {"include_usage": True}
    with client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True, stream_options=options) as stream:
        for chunk in stream:
            texts += [choice.delta.content for choice in chunk.choices if choice.delta.content]
            tokens = chunk.usage.total_tokens if chunk.usage else tokens
    outcome = {"text": "".join(texts), "pieces": len(texts), "tokens": tokens}
    return "chat.completions.create(stream=True)", outcome


def chat_tools() -> tuple[str, object]:
    """A tool call and its result."""
    first = client.chat.completions.create(model=MODEL, messages=MESSAGES, tools=CHAT_TOOLS)
    call: Any = (first.choices[0].message.tool_calls or [])[0]
    result = {"role": "tool", "tool_call_id": call.id, "content": weather(**json.loads(call.function.arguments))}
    messages = [*MESSAGES, first.choices[0].message, result]
    second = client.chat.completions.create(model=MODEL, messages=messages, tools=CHAT_TOOLS)
    return "chat.completions.create(tools=...)", {"tool": call.function.name, "text": second.choices[0].message.content}


def chat_tools_streamed() -> tuple[str, object]:
    """A tool call and its result, both streamed."""
    with client.chat.completions.stream(model=MODEL, messages=MESSAGES, tools=CHAT_TOOLS) as stream:
        message = stream.get_final_completion().choices[0].message
    call: Any = (message.tool_calls or [])[0]
    result = {"role": "tool", "tool_call_id": call.id, "content": weather(**json.loads(call.function.arguments))}
    messages = [*MESSAGES, message, result]
    with client.chat.completions.stream(model=MODEL, messages=messages, tools=CHAT_TOOLS) as stream:
        text = stream.get_final_completion().choices[0].message.content
    return "chat.completions.stream(tools=...)", {"tool": call.function.name, "text": text}


def chat_structured() -> tuple[str, object]:
    """A completion that matches a schema."""
    completion = client.chat.completions.parse(model=MODEL, messages=MESSAGES, response_format=Ibex)
    parsed = completion.choices[0].message.parsed
    return "chat.completions.parse", {"parsed": parsed.model_dump() if parsed else None}


def chat_interrupted() -> tuple[str, object]:
    """An interrupted stream."""
    texts: list[str] = []
    try:
        for chunk in client.chat.completions.create(model=INTERRUPTED_MODEL, messages=MESSAGES, stream=True):
            texts += [choice.delta.content for choice in chunk.choices if choice.delta.content]
    except openai.APIError as error:
        return "chat.completions.create(stream=True)", {"text": "".join(texts), "told": True, "code": error.code}
    return "chat.completions.create(stream=True)", {"text": "".join(texts), "told": False}


def responses() -> tuple[str, object]:
    """A response."""
    return "responses.create", {"text": client.responses.create(model=MODEL, input=QUESTION).output_text}


def responses_streaming() -> tuple[str, object]:
    """A streamed response."""
    texts, tokens = [], None
    with client.responses.create(model=MODEL, input=QUESTION, stream=True) as stream:
        for event in stream:
            if event.type == "response.output_text.delta":
                texts.append(event.delta)
            if event.type == "response.completed" and event.response.usage:
                tokens = event.response.usage.total_tokens
    return "responses.create(stream=True)", {"text": "".join(texts), "pieces": len(texts), "tokens": tokens}


def responses_interrupted() -> tuple[str, object]:
    """An interrupted stream."""
    texts, code = [], None
    for event in client.responses.create(model=INTERRUPTED_MODEL, input=QUESTION, stream=True):
        if event.type == "response.output_text.delta":
            texts.append(event.delta)
        if event.type == "response.failed" and event.response.error:
            code = event.response.error.code
    return "responses.create(stream=True)", {"text": "".join(texts), "told": code is not None, "code": code}


def _result(response: Any) -> tuple[Any, dict[str, str]]:
    """Return the tool call of a response, and the input item with its result."""
    call = next(item for item in response.output if item.type == "function_call")
    output = weather(**json.loads(call.arguments))
    return call, {"type": "function_call_output", "call_id": call.call_id, "output": output}


def responses_tools() -> tuple[str, object]:
    """A tool call and its result, with the conversation in the input."""
    first = client.responses.create(model=MODEL, input=MESSAGES, tools=TOOLS)
    call, result = _result(first)
    items: list[Any] = [*MESSAGES, *first.output, result]
    second = client.responses.create(model=MODEL, input=items, tools=TOOLS)
    return "responses.create(tools=...)", {"tool": call.name, "text": second.output_text}


def responses_tools_streamed() -> tuple[str, object]:
    """A tool call and its result, both streamed."""
    with client.responses.stream(model=MODEL, input=MESSAGES, tools=TOOLS) as stream:
        first = stream.get_final_response()
    call, result = _result(first)
    items: list[Any] = [
        *MESSAGES,
        *first.model_dump(exclude={"output": {"__all__": {"parsed_arguments"}}})["output"],
        result,
    ]
    with client.responses.stream(model=MODEL, input=items, tools=TOOLS) as stream:
        text = stream.get_final_response().output_text
    return "responses.stream(tools=...)", {"tool": call.name, "text": text}


def responses_continued() -> tuple[str, object]:
    """A second turn that continues a conversation stored by the provider."""
    first = client.responses.create(model=MODEL, input=QUESTION)
    second = client.responses.create(model=MODEL, input=NEXT_QUESTION, previous_response_id=first.id)
    return "responses.create(previous_response_id=...)", {"text": second.output_text}


def responses_structured() -> tuple[str, object]:
    """A response that matches a schema."""
    parsed = client.responses.parse(model=MODEL, input=QUESTION, text_format=Ibex).output_parsed
    return "responses.parse", {"parsed": parsed.model_dump() if parsed else None}


def _error(name: str, model: str, *, token: str | None = None) -> tuple[str, object]:
    asked = client.with_options(api_key=token) if token else client
    try:
        if name == "chat.completions.create":
            asked.chat.completions.create(model=model, messages=MESSAGES)
        else:
            asked.responses.create(model=model, input=QUESTION)
    except openai.APIStatusError as error:
        return name, {"error": type(error).__name__, "status": error.status_code, "code": error.code}
    return name, {"error": None}


def _errors(name: str) -> dict[str, Case]:
    return {
        "bad token": lambda: _error(name, MODEL, token=BAD_TOKEN),
        "unknown model": lambda: _error(name, UNKNOWN_MODEL),
        "refused": lambda: _error(name, REFUSED_MODEL),
    }


if __name__ == "__main__":
    serve(
        chat={
            "chat": chat,
            "streaming": chat_streaming,
            "tools": chat_tools,
            "tools, streamed": chat_tools_streamed,
            "structured output": chat_structured,
            "interrupted": chat_interrupted,
            **_errors("chat.completions.create"),
        },
        responses={
            "chat": responses,
            "streaming": responses_streaming,
            "tools": responses_tools,
            "tools, streamed": responses_tools_streamed,
            "structured output": responses_structured,
            "continued": responses_continued,
            "interrupted": responses_interrupted,
            **_errors("responses.create"),
        },
    )
