"""JSON Schemas of chat completions. Their limits come from the parser, so that the two cannot disagree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ibex.adapters.openai_api.body_parser import MAX_MODEL_CHARACTERS
from ibex.adapters.openai_api.chat_parser import MAX_MESSAGES, MAX_TEMPERATURE, ROLES

if TYPE_CHECKING:
    from collections.abc import Mapping

_OPTIONAL_TOKENS: Final = {"type": ["integer", "null"]}
_REQUEST: Final = {
    "type": "object",
    "required": ["model", "messages"],
    "description": "OpenAI's chat completion request. Unlisted members are passed to the provider unchanged.",
    "additionalProperties": True,
    "properties": {
        "model": {"type": "string", "minLength": 1, "maxLength": MAX_MODEL_CHARACTERS},
        "messages": {
            "type": "array",
            "minItems": 1,
            "maxItems": MAX_MESSAGES,
            "items": {
                "type": "object",
                "required": ["role"],
                "properties": {"role": {"type": "string", "enum": list(ROLES)}},
                "additionalProperties": True,
            },
        },
        "stream": {"type": ["boolean", "null"]},
        "stream_options": {
            "type": ["object", "null"],
            "properties": {"include_usage": {"type": ["boolean", "null"]}},
            "additionalProperties": True,
        },
        "temperature": {"type": ["number", "null"], "minimum": 0, "maximum": MAX_TEMPERATURE},
        "max_tokens": _OPTIONAL_TOKENS,
        "max_completion_tokens": _OPTIONAL_TOKENS,
    },
}
_RESPONSE: Final = {"type": "object", "description": "The provider's response, byte for byte."}
_EVENT: Final = {
    "description": "One server-sent event. Its data is a chunk of the completion in JSON, an error in JSON, or [DONE].",
    "type": "object",
    "properties": {"data": {"type": "string"}},
}
SCHEMAS: Final[Mapping[str, Mapping[str, Any]]] = {"request": _REQUEST, "response": _RESPONSE, "event": _EVENT}
