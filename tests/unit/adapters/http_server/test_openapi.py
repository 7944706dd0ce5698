"""Tests that the OpenAPI document matches the routes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import pytest

from harness.chat_requests import parse
from harness.http_scene import REQUEST, HttpScene, call
from ibex.adapters.http_server.openapi import operation_paths
from ibex.adapters.openai_api.chat_completions import ChatCompletions

if TYPE_CHECKING:
    from ibex.adapters.http_server.openapi import DocumentedOperation

READS = {
    "/v1/models",
    "/v1/models/{model_id}",
    "/v1/internal/auth-probe",
    "/v1/orgs/{org_id}/auth-probe",
    "/health",
    "/ready",
    "/metrics",
}


@pytest.fixture
async def document() -> dict[str, Any]:
    """Return the document as a client receives it."""
    found: dict[str, Any] = json.loads((await HttpScene().get("/schema/openapi.json")).body)
    return found


async def test_the_schema_page_is_html_and_the_document_is_json() -> None:
    """The page names the endpoints."""
    page = await HttpScene().get("/schema")

    assert page.headers["content-type"].startswith("text/html")
    assert b"/v1/chat/completions" in page.body
    assert (await HttpScene().get("/schema/openapi.json")).headers["content-type"] == "application/json"


class _Counted:
    """An operation that counts how often its schemas are read."""

    def __init__(self, operation: ChatCompletions) -> None:
        self._operation = operation
        self.reads = 0

    def __getattr__(self, name: str) -> Any:
        self.reads += name == "schemas"
        return getattr(self._operation, name)


@pytest.mark.parametrize("path", ["/schema", "/schema/openapi.json"])
async def test_the_document_is_rendered_once(path: str) -> None:
    """Anybody may request it, without a token, and rendering takes a millisecond."""
    scene, operation = HttpScene(), _Counted(ChatCompletions())
    scene.operations = [cast("DocumentedOperation", operation)]
    app = scene.app()

    first = (await call(app, "GET", path, {})).body
    reads = operation.reads
    again = (await call(app, "GET", path, {})).body

    assert (first, reads) == (again, operation.reads)
    assert reads > 0


def references(value: Any) -> set[str]:
    """Return every reference within a value."""
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*map(references, value.values()))
    return set().union(*map(references, value)) if isinstance(value, list) else set()


def test_every_route_is_described(document: dict[str, Any]) -> None:
    """The document has each route template with exactly one method."""
    assert set(document["paths"]) == READS | set(operation_paths(ChatCompletions()))
    for path, item in document["paths"].items():
        assert set(item) - {"parameters"} == {"post" if path.endswith("completions") else "get"}


def test_every_reference_resolves_and_every_schema_is_referenced(document: dict[str, Any]) -> None:
    """The set of references equals the set of schemas."""
    schemas = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}

    assert references(document) == schemas


def test_the_documented_bounds_are_the_enforced_bounds(document: dict[str, Any]) -> None:
    """The parser accepts a request at the documented bounds."""
    properties = document["components"]["schemas"]["chat.completions.request"]["properties"]
    body = REQUEST[:-1] + b',"temperature":%d}' % properties["temperature"]["maximum"]

    assert parse(body.replace(b"gpt-4o", b"m" * properties["model"]["maxLength"])).model
    assert properties["messages"]["maxItems"] == 4096


def test_the_chat_route_documents_its_statuses_and_its_token(document: dict[str, Any]) -> None:
    """The document lists every status that the route can return. The health route needs no token."""
    operation = document["paths"]["/v1/chat/completions"]["post"]

    expected = {200, 400, 401, 403, 404, 408, 409, 413, 415, 422, 426, 429, 431, 500, 503, 504}
    assert set(operation["responses"]) == {str(status) for status in expected}
    content = operation["responses"]["200"]["content"]
    assert set(content) == {"application/json", "text/event-stream"}
    assert content["text/event-stream"]["schema"] == {"$ref": "#/components/schemas/chat.completions.event"}
    assert document["security"] == [{"pat": []}]
    assert document["paths"]["/health"]["get"]["security"] == [{}]
    assert "X-Request-ID" in operation["responses"]["429"]["headers"]
    for response in operation["responses"].values():
        assert response["headers"]["openai-processing-ms"]["schema"] == {"type": "integer"}
