"""The page at ``/schema``: the API without a script and without another host (ADR 0069)."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from harness.http_scene import HttpScene
from ibex.adapters.http_server.api_page import api_page

OPERATION: dict[str, Any] = {
    "summary": "Count words.",
    "parameters": [{"name": "X-Agent", "in": "header", "description": "The agent."}],
    "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/words.request"}}}},
    "responses": {"200": {"description": "The words.", "content": {"application/json": {"schema": {}}}}},
}


def document(operation: dict[str, Any]) -> dict[str, Any]:
    """Return a document with one operation and one schema."""
    return {
        "info": {"title": "IBEX", "description": "A proxy."},
        "paths": {"/v1/words": {"post": operation}},
        "components": {"schemas": {"words.request": {"type": "object"}}},
    }


class _Loaded(HTMLParser):
    """Collects the elements of a page that make a browser run or load something."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note scripts, and all references but links for people to follow."""
        names = {name for name, _ in attrs}
        if tag in ("script", "link", "img", "iframe", "object", "embed") or "src" in names:
            self.found.append(tag)
        self.found += [name for name in names if name.startswith("on")]


@pytest.mark.parametrize("base_path", ["", "/gateway"])
async def test_the_page_loads_nothing(base_path: str) -> None:
    """A browser that shows it asks no other host and runs no script. It links to the document and to schemas only."""
    scene = HttpScene()
    scene.base_path = base_path

    page = (await scene.get(f"{base_path}/schema")).body.decode()

    loaded = _Loaded()
    loaded.feed(page)
    assert loaded.found == []
    assert "default-src 'none'" in page
    assert {link for link in re.findall(r'href="([^"#]*)', page) if link} == {f"{base_path}/schema/openapi.json"}


async def test_the_page_lists_each_operation_and_its_schemas() -> None:
    """Each link to a schema leads to it."""
    page = (await HttpScene().get("/schema")).body.decode()

    assert "POST /v1/chat/completions" in page
    assert "GET /health" in page
    linked = set(re.findall(r'href="#([^"]*)"', page))
    assert "chat.completions.request" in linked
    assert linked <= set(re.findall(r'id="([^"]*)"', page))


async def test_the_page_shows_the_paths_that_a_client_sends() -> None:
    """Behind a base path, they begin with it."""
    scene = HttpScene()
    scene.base_path = "/gateway"

    page = (await scene.get("/gateway/schema")).body.decode()

    assert "POST /gateway/v1/chat/completions" in page
    assert "POST /v1/chat/completions" not in page


async def test_the_page_says_how_to_authenticate_and_what_response_headers_mean() -> None:
    """Health and metrics need no token."""
    page = (await HttpScene().get("/schema")).body.decode()

    assert "Authorization: Bearer. A personal access token of IBEX." in page
    assert "<code>X-RateLimit-Remaining</code></td><td>Requests left in this minute." in page
    without_token = {part.partition("<")[0] for part in page.split("<code>GET ")[1:] if "needs no token" in part}
    assert without_token == {"/health", "/ready", "/metrics"}


def test_the_page_shows_parameters_body_and_responses() -> None:
    """As the document has them."""
    page = api_page(document(OPERATION), "/schema/openapi.json").decode()

    for shown in ("Count words.", "X-Agent", "The agent.", 'href="#words.request"', "200", "The words."):
        assert shown in page


def test_texts_of_the_document_are_not_markup() -> None:
    """A description with angle brackets is shown as it is."""
    page = api_page(document(OPERATION | {"summary": "<script>alert(1)</script>"}), '/"><script>').decode()

    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
