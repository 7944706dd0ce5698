"""The application is put together from its parts alone."""

from __future__ import annotations

import pytest

from harness.http_scene import CHAT, HEADERS, REQUEST, HttpScene, call


async def test_applications_share_nothing() -> None:
    """Two in one process answer each from its own parts."""
    one, other = HttpScene(), HttpScene()
    other.docs_base = "https://docs.test"
    one_app, other_app = one.app(), other.app()

    await call(one_app, "POST", CHAT, HEADERS, REQUEST)
    response = await call(other_app, "GET", "/nothing")

    assert len(one.chat.provider.asked) == 1
    assert other.chat.provider.asked == []
    assert response.error["docs_url"] == "https://docs.test/NOT_FOUND"


@pytest.mark.parametrize("path", [CHAT + "/", "//v1/chat/completions"])
async def test_superfluous_slashes_do_not_matter(path: str) -> None:
    """As base URLs that end in one make them."""
    assert (await HttpScene().post(path=path)).status == 200


@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("GET", "/docs"), ("POST", "/chat/completions")])
async def test_who_is_lost_is_told_the_way(method: str, path: str) -> None:
    """A browser at the bare address, an SDK whose base URL lacks the /v1: not found, and where to look."""
    response = await call(HttpScene().app(), method, path)

    assert (response.status, response.error["code"]) == (404, "NOT_FOUND")
    assert response.error["message"].startswith("Not found. The API is under /v1")
    assert "/v1/chat/completions" in response.error["message"]
    assert "GET /schema" in response.error["message"]


async def test_a_model_that_is_not_there_is_no_wrong_path() -> None:
    """Nobody who asks for one is lost."""
    response = await call(HttpScene().app(), "GET", "/v1/models/nothing", HEADERS)

    assert response.status == 404
    assert "detail" not in response.error
