"""The application is put together from its parts alone."""

from __future__ import annotations

import pytest

from harness.chat_scene import ORG
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


ORG_CHAT = f"/v1/orgs/{ORG}/chat/completions"
OTHERWISE = [
    CHAT + "/",
    "/" + CHAT,
    "/v1//chat/completions",
    "/v1/./chat/completions",
    "/v1/x/../chat/completions",
    "/v1/chat%2Fcompletions",
    "/v1/%63hat/completions",
    "/v1/chat/completions%20",
    "/v1/chat/completions%00",
    "/v1/chat/completions;x",
    "/v1/chat;x/completions",
    "/v1\\chat\\completions",
    "/V1/chat/completions",
    ORG_CHAT + "/",
    ORG_CHAT.replace("/chat", "//chat"),
    ORG_CHAT.replace("-", "%2D", 1),
    ORG_CHAT.replace("/chat", ";x/chat"),
    ORG_CHAT.replace("/chat", "%20/chat"),
]


@pytest.mark.parametrize("path", OTHERWISE)
async def test_a_path_that_is_written_in_another_way_is_not_found(path: str) -> None:
    """A proxy in front that judges by the path must not see another one than IBEX."""
    response = await HttpScene().post(path=path)

    assert (response.status, response.error["code"]) == (404, "NOT_FOUND")


async def test_the_id_of_an_organization_is_taken_in_either_case() -> None:
    """It is the same UUID."""
    assert (await HttpScene().post(path=ORG_CHAT.replace(str(ORG), str(ORG).upper()))).status == 200


@pytest.mark.parametrize("path", ["/v1/models/gpt-4o", "/v1/models/gpt%2D4o", "/v1/models/%67pt-4o"])
async def test_the_id_of_a_model_may_be_escaped(path: str) -> None:
    """As clients do, which take it for one segment."""
    assert (await call(HttpScene().app(), "GET", path, HEADERS)).status == 200


@pytest.mark.parametrize(
    "path",
    ["/v1/models/gpt-4o/", "/v1/models//gpt-4o", "/v1/models/%2Fgpt-4o", "/v1/models/./gpt-4o", "/v1/models/a%0A"],
)
async def test_a_model_is_named_in_one_way(path: str) -> None:
    """But for escapes."""
    assert (await call(HttpScene().app(), "GET", path, HEADERS)).status == 404


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
