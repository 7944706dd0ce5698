"""JSON Schemas of the Responses API. Their limits come from the parser, so that the two cannot disagree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ibex.adapters.openai_api.body_parser import MAX_MODEL_CHARACTERS
from ibex.adapters.openai_api.responses_parser import MAX_ID_CHARACTERS, MAX_INPUT_ITEMS

if TYPE_CHECKING:
    from collections.abc import Mapping

_OPTIONAL_TEXT: Final = {"type": ["string", "null"]}
_PROPERTIES: Final = {
    "model": {"type": "string", "minLength": 1, "maxLength": MAX_MODEL_CHARACTERS},
    "input": {
        "oneOf": [
            _OPTIONAL_TEXT,
            {
                "type": "array",
                "maxItems": MAX_INPUT_ITEMS,
                "items": {
                    "type": "object",
                    "properties": {"type": {"type": "string"}, "role": {"type": "string"}},
                    "anyOf": [{"required": ["type"]}, {"required": ["role"]}],
                    "additionalProperties": True,
                },
            },
        ]
    },
    "instructions": _OPTIONAL_TEXT,
    "previous_response_id": {
        "type": ["string", "null"],
        "minLength": 1,
        "maxLength": MAX_ID_CHARACTERS,
        "description": "A response that this agent has received.",
    },
    "background": {"type": ["boolean", "null"], "enum": [False, None]},
}
_DESCRIPTION: Final = "OpenAI's request for a response. Unlisted members are passed to the provider unchanged."
_REQUEST: Final = {
    "type": "object",
    "required": ["model"],
    "description": _DESCRIPTION,
    "additionalProperties": True,
    "properties": _PROPERTIES | {"stream": {"type": ["boolean", "null"]}},
}
_RESPONSE: Final = {
    "type": "object",
    "description": "The provider's response, byte for byte, except that `instructions` are the client's own.",
}
_EVENT: Final = {
    "description": "One server-sent event with a typed event in JSON. `response.failed` and `error` report a failure.",
    "type": "object",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
}
_UNCHANGED: Final = {"type": "object", "description": "The provider's response, byte for byte."}
SCHEMAS: Final[Mapping[str, Mapping[str, Any]]] = {"request": _REQUEST, "response": _RESPONSE, "event": _EVENT}
TOKEN_COUNT_SCHEMAS: Final[Mapping[str, Mapping[str, Any]]] = {"request": _REQUEST, "response": _UNCHANGED}
STORED_SCHEMAS: Final[Mapping[str, Mapping[str, Any]]] = {"response": _RESPONSE, "event": _EVENT}
CANCEL_SCHEMAS: Final[Mapping[str, Mapping[str, Any]]] = {"response": _RESPONSE}
UNCHANGED_SCHEMAS: Final[Mapping[str, Mapping[str, Any]]] = {"response": _UNCHANGED}
