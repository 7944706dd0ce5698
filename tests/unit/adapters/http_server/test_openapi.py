"""The document says what the routes do."""

from __future__ import annotations

import re
from typing import Any

from harness.chat_requests import parse
from harness.http_scene import REQUEST
from ibex.adapters.http_server.app import PROBE_PATHS
from ibex.adapters.http_server.client_connection import Limits
from ibex.adapters.http_server.openapi import openapi_document, operation_paths
from ibex.adapters.openai_api.chat_completions import ChatCompletions

DOCUMENT = openapi_document([ChatCompletions()], Limits())
PLAIN = {"/v1/models", "/v1/models/{model_id}", "/health", "/ready", "/metrics", "/schema"}


def references(value: Any) -> set[str]:
    """Return every reference within a value."""
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*map(references, value.values()))
    return set().union(*map(references, value)) if isinstance(value, list) else set()


def test_every_route_is_described() -> None:
    """By its template, with its one method."""
    templates = {re.sub(r":\w+}", "}", path) for path in (*operation_paths(ChatCompletions()), *PROBE_PATHS)}

    assert set(DOCUMENT["paths"]) == PLAIN | templates
    for path, item in DOCUMENT["paths"].items():
        assert set(item) - {"parameters"} == {"post" if path.endswith("completions") else "get"}


def test_every_reference_leads_somewhere() -> None:
    """And every schema is referred to."""
    schemas = {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}

    assert references(DOCUMENT) == schemas


def test_the_bounds_are_those_that_are_checked() -> None:
    """A request at the documented bounds is taken."""
    properties = DOCUMENT["components"]["schemas"]["chat.completions.request"]["properties"]
    body = REQUEST[:-1] + b',"temperature":%d,"max_tokens":%d}' % (
        properties["temperature"]["maximum"],
        properties["max_tokens"]["maximum"],
    )

    assert parse(body.replace(b"gpt-4o", b"m" * properties["model"]["maxLength"])).model
    assert properties["messages"]["maxItems"] == 4096


def test_the_chat_route_names_its_errors_and_its_token() -> None:
    """All statuses of the table that it can answer with; the operations routes need no token."""
    operation = DOCUMENT["paths"]["/v1/chat/completions"]["post"]

    expected = {200, 400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 431, 500, 501, 503, 504}
    assert set(operation["responses"]) == {str(status) for status in expected}
    content = operation["responses"]["200"]["content"]
    assert set(content) == {"application/json", "text/event-stream"}
    assert content["text/event-stream"]["schema"] == {"$ref": "#/components/schemas/chat.completions.event"}
    assert DOCUMENT["security"] == [{"pat": []}]
    assert DOCUMENT["paths"]["/health"]["get"]["security"] == []
    assert "X-Request-ID" in operation["responses"]["429"]["headers"]
