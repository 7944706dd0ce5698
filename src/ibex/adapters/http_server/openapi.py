"""The OpenAPI document (OpenAPI 3.1), written by hand: the routes are raw ASGI applications without type information.

Each operation documents its own request and response.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from ibex.adapters.http_server.errors import TABLE
from ibex.domain.errors import ErrorCode, FieldCode
from ibex.domain.proxying.operation import Operation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ibex.adapters.http_server.client_connection import Limits

_UUID: Final = {"type": "string", "format": "uuid"}
_TEXT: Final = {"type": "string"}
_EVERY_RESPONSE: Final = {
    "X-Request-ID": {"schema": _UUID, "description": "The request's own, if it was a UUID; else a new UUIDv7."},
    "X-Trace-ID": {"schema": _TEXT, "description": "The trace id of traceparent, or a new one."},
    "X-Response-Time": {"schema": {"type": "number"}, "description": "Milliseconds to the head of the response."},
}
_EXCHANGE_HEADERS: Final = {
    "X-IBEX-Session-ID": {"schema": _TEXT, "description": "The session's handle."},
    "X-IBEX-Directive": {"schema": _TEXT, "description": "Version and hash of the directive that was injected."},
    "X-RateLimit-Limit": {"schema": {"type": "integer"}, "description": "Requests a minute."},
    "X-RateLimit-Remaining": {"schema": {"type": "integer"}, "description": "Requests left in this minute."},
    "X-RateLimit-Reset": {"schema": {"type": "integer"}, "description": "When the minute ends, in Unix seconds."},
    "Server-Timing": {"schema": _TEXT, "description": "Milliseconds of each stage."},
    "X-IBEX-Provider-Request-ID": {"schema": _TEXT, "description": "The provider's own id of the request."},
}
_ORG_ID: Final = {"name": "org_id", "in": "path", "required": True, "schema": _UUID}
_AGENT_ID: Final = {
    "name": "X-IBEX-Agent-ID",
    "in": "header",
    "schema": _UUID,
    "description": "Required unless the token is bound to an agent.",
}
_SESSION: Final = (
    {
        "name": "X-IBEX-Session-ID",
        "in": "header",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,128}$"},
        "description": "The session that this turn belongs to; a new one without it.",
    },
    {
        "name": "X-IBEX-Session-End",
        "in": "header",
        "schema": {"type": "string", "enum": ["true", "false"]},
        "description": "Whether this turn completes the session.",
    },
)
_ERROR: Final = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "type", "message", "param", "request_id", "timestamp"],
            "properties": {
                "code": {"type": "string", "enum": [code.value for code in ErrorCode]},
                "type": _TEXT,
                "message": _TEXT,
                "param": {"type": ["string", "null"]},
                "detail": _TEXT,
                "provider_code": _TEXT,
                "docs_url": {"type": "string", "format": "uri"},
                "request_id": _UUID,
                "timestamp": {"type": "string", "format": "date-time"},
                "field_errors": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["field", "code", "message"],
                        "properties": {
                            "field": _TEXT,
                            "code": {"type": "string", "enum": [code.value for code in FieldCode]},
                            "message": _TEXT,
                        },
                    },
                },
            },
        }
    },
}
_CALLER_ERRORS: Final = (
    ErrorCode.MISSING_TOKEN,
    ErrorCode.INVALID_TOKEN,
    ErrorCode.INSUFFICIENT_PERMISSIONS,
    ErrorCode.SERVICE_DEGRADED,
    ErrorCode.OVERLOADED,
    ErrorCode.INTERNAL_ERROR,
)
_AGENT_ERRORS: Final = (
    *_CALLER_ERRORS,
    ErrorCode.VALIDATION_ERROR,
    ErrorCode.MISSING_AGENT_ID,
    ErrorCode.AGENT_NOT_AUTHORIZED,
    ErrorCode.AGENT_SUSPENDED,
    ErrorCode.AUTH_UNAVAILABLE,
    ErrorCode.RATE_LIMITED,
)
_PROXY_ERRORS: Final = tuple(
    code
    for code in ErrorCode
    if code not in (ErrorCode.METHOD_NOT_ALLOWED, ErrorCode.CLIENT_CLOSED_REQUEST, ErrorCode.NOT_FOUND)
)
_REFUSED_BY_PROVIDER: Final = (404, 409, 413, 422)  # besides 400


class DocumentedOperation(Operation, Protocol):
    """An operation that documents itself."""

    @property
    def summary(self) -> str:
        """What a request does, as a sentence in the imperative."""

    @property
    def schemas(self) -> Mapping[str, Mapping[str, Any]]:
        """The JSON Schemas of ``request`` and ``response``, and of a stream's ``event`` if the operation streams."""


def operation_paths(operation: Operation) -> tuple[str, str]:
    """Return the templates of an operation's two paths, without and with the organization."""
    return f"/v1/{operation.path}", f"/v1/orgs/{{org_id}}/{operation.path}"


def openapi_document(operations: Sequence[DocumentedOperation], limits: Limits) -> dict[str, Any]:
    """Return the document that describes every route."""
    models = {"type": "object", "properties": {"object": _TEXT, "data": {"type": "array", "items": _ref("Model")}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "IBEX", "version": "1", "description": "An LLM proxy with OpenAI's chat completion API."},
        "security": [{"pat": []}],
        "paths": {
            **_operation_items(operations, limits),
            "/v1/models": {"get": _get("List the models that are routed.", models, _CALLER_ERRORS)},
            "/v1/models/{model_id}": {
                "parameters": [{"name": "model_id", "in": "path", "required": True, "schema": _TEXT}],
                "get": _get("Describe a routed model.", _ref("Model"), (*_CALLER_ERRORS, ErrorCode.NOT_FOUND)),
            },
            "/v1/internal/auth-probe": {"get": _probe()},
            # A path that is percent-encoded is not a route.
            "/v1/orgs/{org_id}/auth-probe": {"parameters": [_ORG_ID], "get": _probe(ErrorCode.NOT_FOUND)},
            "/health": {"get": _open("Whether the process is alive.", _ref("Health"))},
            "/ready": {
                "get": _open("Whether the process should be sent requests.", _ref("Health"))
                | {"responses": _responses(_ref("Health"), ()) | {"503": _response("Not ready.", _ref("Health"))}}
            },
            "/metrics": {"get": _open("Prometheus metrics.", _TEXT, "text/plain")},
            "/schema": {"get": _open("This document.", {"type": "object"})},
        },
        "components": {
            "securitySchemes": {
                "pat": {"type": "http", "scheme": "bearer", "description": "A personal access token of IBEX."}
            },
            "schemas": {
                **_operation_schemas(operations),
                "Error": _ERROR,
                "Model": {"type": "object", "properties": {"id": _TEXT, "object": _TEXT, "owned_by": _TEXT}},
                "Health": {"type": "object", "properties": {"status": _TEXT, "checks": {"type": "object"}}},
            },
        },
    }


def _operation_items(operations: Sequence[DocumentedOperation], limits: Limits) -> dict[str, Any]:
    items: dict[str, Any] = {}
    for operation in operations:
        path, path_of_org = operation_paths(operation)
        items[path] = {"post": _post(operation, limits)}
        items[path_of_org] = {"parameters": [_ORG_ID], "post": _post(operation, limits)}
    return items


def _operation_schemas(operations: Sequence[DocumentedOperation]) -> dict[str, Any]:
    return {_name(operation, kind): schema for operation in operations for kind, schema in operation.schemas.items()}


def _name(operation: Operation, kind: str) -> str:
    """Return the name of a schema, such as ``chat.completions.request``."""
    return f"{operation.name}.{kind}"


def _post(operation: DocumentedOperation, limits: Limits) -> dict[str, Any]:
    schema = _ref(_name(operation, "response"))
    answer = _response("The provider's response.", schema)
    if "event" in operation.schemas:
        answer["content"]["text/event-stream"] = {"schema": _ref(_name(operation, "event"))}
    answer["headers"] |= _EXCHANGE_HEADERS
    refused = {str(status): _response("The provider refused it.", _ref("Error")) for status in _REFUSED_BY_PROVIDER}
    body = {"required": True, "content": {"application/json": {"schema": _ref(_name(operation, "request"))}}}
    return {
        "summary": operation.summary,
        "description": f"A body has at most {limits.max_request_body_bytes} bytes.",
        "parameters": [_AGENT_ID, *(_SESSION if operation.makes_turn else ())],
        "requestBody": body,
        "responses": refused | _responses(schema, _PROXY_ERRORS) | {"200": answer},
    }


def _probe(*more: ErrorCode) -> dict[str, Any]:
    errors = (*_AGENT_ERRORS, *more)
    operation = _get("Authenticate, check the agent, count the request.", {"type": "object"}, errors)
    return operation | {"parameters": [_AGENT_ID]}


def _get(summary: str, schema: dict[str, Any], errors: tuple[ErrorCode, ...]) -> dict[str, Any]:
    return {"summary": summary, "responses": _responses(schema, errors)}


def _open(summary: str, schema: dict[str, Any], content_type: str = "application/json") -> dict[str, Any]:
    return {"summary": summary, "security": [], "responses": {"200": _response(summary, schema, content_type)}}


def _responses(schema: dict[str, Any], errors: tuple[ErrorCode, ...]) -> dict[str, Any]:
    codes: dict[str, list[str]] = {}
    for code in errors:
        codes.setdefault(str(TABLE[code][0]), []).append(code)
    told = {status: _response(", ".join(named), _ref("Error")) for status, named in codes.items()}
    return {"200": _response("As asked.", schema)} | told


def _response(description: str, schema: dict[str, Any], content_type: str = "application/json") -> dict[str, Any]:
    return {
        "description": description,
        "headers": dict(_EVERY_RESPONSE),
        "content": {content_type: {"schema": schema}},
    }


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}
