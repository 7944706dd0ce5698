"""The document says what the routes do."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness.chat_requests import parse
from harness.http_scene import REQUEST, HttpScene
from ibex.adapters.http_server.openapi import operation_paths
from ibex.adapters.openai_api.chat_completions import ChatCompletions

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
    """The document as a client reads it."""
    found: dict[str, Any] = json.loads((await HttpScene().get("/schema/openapi.json")).body)
    return found


async def test_the_page_shows_the_document() -> None:
    """HTML, for a person; the document itself is beside it, as JSON."""
    page = await HttpScene().get("/schema")

    assert page.headers["content-type"].startswith("text/html")
    assert b"/v1/chat/completions" in page.body
    assert (await HttpScene().get("/schema/openapi.json")).headers["content-type"] == "application/json"


def references(value: Any) -> set[str]:
    """Return every reference within a value."""
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*map(references, value.values()))
    return set().union(*map(references, value)) if isinstance(value, list) else set()


def test_every_route_is_described(document: dict[str, Any]) -> None:
    """By its template, with its one method."""
    assert set(document["paths"]) == READS | set(operation_paths(ChatCompletions()))
    for path, item in document["paths"].items():
        assert set(item) - {"parameters"} == {"post" if path.endswith("completions") else "get"}


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    """And every schema is referred to."""
    schemas = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}

    assert references(document) == schemas


def test_the_bounds_are_those_that_are_checked(document: dict[str, Any]) -> None:
    """A request at the documented bounds is taken."""
    properties = document["components"]["schemas"]["chat.completions.request"]["properties"]
    body = REQUEST[:-1] + b',"temperature":%d}' % properties["temperature"]["maximum"]

    assert parse(body.replace(b"gpt-4o", b"m" * properties["model"]["maxLength"])).model
    assert properties["messages"]["maxItems"] == 4096


def test_the_chat_route_names_its_errors_and_its_token(document: dict[str, Any]) -> None:
    """All statuses of the table that it can answer with; the operations routes need no token."""
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
