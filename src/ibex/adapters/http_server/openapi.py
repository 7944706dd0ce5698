"""The OpenAPI document (OpenAPI 3.1) and its page.

Litestar generates the document from the typed handlers. The routes of operations are raw ASGI applications, so their
part is added here: each operation documents its own request and response.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from litestar.enums import MediaType
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.plugins import JsonRenderPlugin, OpenAPIRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme, Server

from ibex.adapters.http_server.api_page import api_page
from ibex.adapters.http_server.errors import TABLE
from ibex.adapters.http_server.representations import ErrorEnvelope
from ibex.domain.errors import ErrorCode
from ibex.domain.proxying.operation import Operation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from litestar import Request

    from ibex.adapters.http_server.client_connection import Limits

SCHEMA_PATH: Final = "/schema"
DOCUMENT_PATH: Final = "/schema/openapi.json"
_UUID: Final = {"type": "string", "format": "uuid"}
_TEXT: Final = {"type": "string"}
EVERY_RESPONSE: Final = {
    "X-Request-ID": {
        "schema": _UUID,
        "description": "The id of the request: the client's, if it is a UUID, or a new UUIDv7.",
    },
    "X-Trace-ID": {"schema": _TEXT, "description": "The trace id of `traceparent`, or a new one."},
    "X-Response-Time": {"schema": {"type": "number"}, "description": "Milliseconds to the head of the response."},
}
EXCHANGE_HEADERS: Final = {
    "X-IBEX-Session-ID": {"schema": _TEXT, "description": "The session's handle."},
    "X-IBEX-Directive": {
        "schema": _TEXT,
        "description": "The receipt of the injected directive: its version and hash.",
    },
    "X-RateLimit-Limit": {"schema": {"type": "integer"}, "description": "Requests a minute."},
    "X-RateLimit-Remaining": {"schema": {"type": "integer"}, "description": "Requests left in this minute."},
    "X-RateLimit-Reset": {"schema": {"type": "integer"}, "description": "When the minute ends, in Unix seconds."},
    "X-IBEX-Auth-Cached": {"schema": _TEXT, "description": "`true` if auth could not check the caller."},
    "Server-Timing": {"schema": _TEXT, "description": "Milliseconds of each stage."},
    "X-IBEX-Provider-Request-ID": {"schema": _TEXT, "description": "The provider's own id of the request."},
    "openai-processing-ms": {
        "schema": {"type": "integer"},
        "description": "The processing time that the provider reports, in milliseconds.",
    },
}
_ORG_ID: Final = {"name": "org_id", "in": "path", "required": True, "schema": _UUID}
_RESPONSE_ID: Final = {"name": "id", "in": "path", "required": True, "schema": _TEXT}
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
CALLER_ERRORS: Final = (
    ErrorCode.MISSING_TOKEN,
    ErrorCode.INVALID_TOKEN,
    ErrorCode.INSUFFICIENT_PERMISSIONS,
    ErrorCode.SERVICE_DEGRADED,
    ErrorCode.OVERLOADED,
    ErrorCode.INTERNAL_ERROR,
)
AGENT_ERRORS: Final = (
    *CALLER_ERRORS,
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
        """The JSON Schemas of ``request`` (if it has a body), ``response``, and ``event`` (if it streams)."""


def operation_paths(operation: Operation) -> tuple[str, str]:
    """Return the templates of an operation's two paths, without and with the organization."""
    return f"/v1/{operation.path}", f"/v1/orgs/{{org_id}}/{operation.path}"


def openapi_config(operations: Sequence[DocumentedOperation], limits: Limits, base_path: str = "") -> OpenAPIConfig:
    """Return Litestar's configuration: a page at ``/schema``, the document at ``/schema/openapi.json``.

    The paths of the document are relative to its server, which is ``base_path``.
    """

    def complete(document: dict[str, Any]) -> dict[str, Any]:
        schemas = document["components"]["schemas"] | _operation_schemas(operations)
        return document | {
            "paths": _operation_items(operations, limits) | document["paths"],
            "components": document["components"] | {"schemas": schemas},
        }

    scheme = SecurityScheme(type="http", scheme="bearer", description="A personal access token of IBEX.")
    return OpenAPIConfig(
        title="IBEX",
        version="1",
        description="An LLM proxy with OpenAI's API.",
        servers=[Server(url=base_path or "/")],
        security=[{"pat": []}],
        components=Components(security_schemes={"pat": scheme}),
        path=SCHEMA_PATH,
        render_plugins=[_Page(complete, f"{base_path}{DOCUMENT_PATH}"), _Document(complete)],
    )


class _Page(OpenAPIRenderPlugin):
    """The page that ``api_page`` renders, once: anybody may request it, and rendering takes a millisecond."""

    def __init__(self, complete: Callable[[dict[str, Any]], dict[str, Any]], document_url: str) -> None:
        super().__init__(path="/")
        self._complete = complete
        self._document_url = document_url
        self._rendered: bytes | None = None

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:  # noqa: ARG002
        if self._rendered is None:
            self._rendered = api_page(self._complete(openapi_schema), self._document_url)
        return self._rendered


class _Document(JsonRenderPlugin):
    """The document as JSON, also rendered once."""

    def __init__(self, complete: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        super().__init__(media_type=MediaType.JSON)
        self._complete = complete
        self._rendered: bytes | None = None

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        if self._rendered is None:
            self._rendered = super().render(request, self._complete(openapi_schema))
        return self._rendered


def error_responses(*codes: ErrorCode) -> dict[int, ResponseSpec]:
    """Return Litestar's description of error responses, by status."""
    named = _codes_by_status(codes)
    return {
        status: ResponseSpec(ErrorEnvelope, generate_examples=False, description=", ".join(names))
        for status, names in named.items()
    }


def _codes_by_status(codes: Iterable[ErrorCode]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for code in codes:
        found.setdefault(TABLE[code][0], []).append(code)
    return found


def _operation_items(operations: Sequence[DocumentedOperation], limits: Limits) -> dict[str, Any]:
    items: dict[str, Any] = {}
    for operation in operations:
        path, path_of_org = operation_paths(operation)
        method = operation.method.lower()
        of_id = [_RESPONSE_ID] if "{id}" in path else []
        items.setdefault(path, {"parameters": of_id})[method] = _request(operation, limits)
        items.setdefault(path_of_org, {"parameters": [_ORG_ID, *of_id]})[method] = _request(operation, limits)
    return items


def _operation_schemas(operations: Sequence[DocumentedOperation]) -> dict[str, Any]:
    return {_name(operation, kind): schema for operation in operations for kind, schema in operation.schemas.items()}


def _name(operation: Operation, kind: str) -> str:
    """Return the name of a schema, such as ``chat.completions.request``."""
    return f"{operation.name}.{kind}"


def _request(operation: DocumentedOperation, limits: Limits) -> dict[str, Any]:
    schema = _ref(_name(operation, "response"))
    answer = _response("The provider's response.", schema)
    if "event" in operation.schemas:
        answer["content"]["text/event-stream"] = {"schema": _ref(_name(operation, "event"))}
    refused = {
        str(status): _response("The provider refused it.", _ref("ErrorEnvelope")) for status in _REFUSED_BY_PROVIDER
    }
    responses = refused | _errors(_PROXY_ERRORS) | {"200": answer}
    for response in responses.values():
        response["headers"] |= EXCHANGE_HEADERS
    described: dict[str, Any] = {
        "summary": operation.summary,
        "parameters": [_AGENT_ID, *(_SESSION if operation.makes_turn else ())],
        "responses": responses,
    }
    if "request" in operation.schemas:
        content = {"application/json": {"schema": _ref(_name(operation, "request"))}}
        described["requestBody"] = {"required": True, "content": content}
        described["description"] = f"A body has at most {limits.max_request_body_bytes} bytes."
    return described


def _errors(codes: Iterable[ErrorCode]) -> dict[str, Any]:
    named = _codes_by_status(codes)
    return {str(status): _response(", ".join(names), _ref("ErrorEnvelope")) for status, names in named.items()}


def _response(description: str, schema: dict[str, Any], content_type: str = "application/json") -> dict[str, Any]:
    return {
        "description": description,
        "headers": dict(EVERY_RESPONSE),
        "content": {content_type: {"schema": schema}},
    }


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}
