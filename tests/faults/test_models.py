"""The models that clients see, and a provider that does not list its own (docs/faults.md)."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from harness.loopback import KEY, REQUEST, Loopback
from harness.openai import ScriptedOpenAI
from harness.openai_wire import (
    JSON_TYPE,
    Close,
    Gate,
    Pause,
    Reset,
    Send,
    Silent,
    answer,
    completion,
    error,
    head,
    html,
    model_list,
    model_object,
)
from ibex.domain.proxying.model_list import REFRESH_S, TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.openai_wire import Script
    from harness.raw_http import Seen

pytestmark = pytest.mark.integration

MODELS = "/v1/models"
MARGIN_S = 2.0


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Loopback]:
    """A proxy that has not yet requested the model list."""
    settings = {"IBEX_OPENAI_MODELS": "gpt-*,o[0-9]*,my-model"}
    with ScriptedOpenAI.in_thread() as provider, Loopback.running(provider, tmp_path, **settings) as proxy:
        yield proxy
        proxy.assert_healthy()


def request(proxy: Loopback, path: str = MODELS) -> bytes:
    """Return a request with a token."""
    return f"GET {path} HTTP/1.1\r\nhost: ibex.test\r\nauthorization: Bearer {proxy.token}\r\n\r\n".encode()


def get(proxy: Loopback, path: str = MODELS) -> Seen:
    """Send a request and return the response."""
    with proxy.client() as client:
        client.send(request(proxy, path))
        return client.response()


def ids(seen: Seen) -> list[str]:
    """Return the names in a list."""
    assert seen.status == 200
    return [model["id"] for model in json.loads(seen.body)["data"]]


def ask_for(proxy: Loopback, model: str) -> Seen:
    """Send a chat request for a model."""
    return proxy.ask(body=json.dumps(REQUEST | {"model": model}).encode())


def test_the_list_contains_the_routed_models_of_the_provider(proxy: Loopback) -> None:
    """Each entry is the provider's description. Fine-tuned models and patterns are not in the list."""
    listed, again = get(proxy), get(proxy)
    one = get(proxy, f"{MODELS}/gpt-4o-mini")

    assert json.loads(listed.body)["data"] == [model_object("gpt-4o"), model_object("gpt-4o-mini")]
    assert again.body == listed.body
    assert json.loads(one.body) == model_object("gpt-4o-mini")
    for absent in ("gpt-5", "whisper-1", "ft:gpt-4o-mini:acme::x", "gpt-*", "my-model"):
        assert get(proxy, f"{MODELS}/{absent}").outcome == (404, "model_not_found")
    (asked,) = proxy.provider.requests  # a single request
    assert (asked.method, asked.path, asked.header("authorization")) == ("GET", MODELS, f"Bearer {KEY}")


@pytest.mark.parametrize("pattern", ["gpt-*", "o[0-9]*"])
def test_a_pattern_as_the_model_gets_404(proxy: Loopback, pattern: str) -> None:
    """The error has OpenAI's code. The provider gets no request."""
    seen = ask_for(proxy, pattern)

    assert seen.outcome == (404, "model_not_found")
    assert proxy.provider.requests == []
    assert proxy.record(seen.request_id).error_code == "PROVIDER_NOT_CONFIGURED"


@pytest.mark.parametrize(
    ("configured", "model", "status"),
    [
        (None, "codex-mini", 200),
        (None, "computer-use-preview", 200),
        (None, "ft:gpt-4o-mini:acme::x", 404),
        ("gpt-*,ft:gpt-*:acme:*", "ft:gpt-4o-mini:acme::x", 200),
        ("gpt-*,ft:gpt-*:acme:*", "ft:gpt-4o-mini:other::x", 404),
    ],
)
def test_fine_tuned_models_are_routed_only_by_a_matching_pattern(
    tmp_path: Path, configured: str | None, model: str, status: int
) -> None:
    """All organizations share the key. OpenAI's own models are routed by default."""
    settings = {} if configured is None else {"IBEX_OPENAI_MODELS": configured}
    with ScriptedOpenAI.in_thread() as provider, Loopback.running(provider, tmp_path, **settings) as proxy:
        assert ask_for(proxy, model).status == status
        assert len(provider.requests) == (status == 200)
        provider.put(model_list(model_object(model)))
        assert ids(get(proxy)) == ([model] if status == 200 else [])


CANNOT: dict[str, Script] = {
    "refuses the key": error(401, "canary"),
    "offers no list": error(404, "canary"),
    "is rate limited": error(429, "canary"),
    "fails": error(500, "canary"),
    "sends a page": html(),
    "sends no list": answer(200, b'{"object":"canary"}', JSON_TYPE),
    "sends too much": answer(200, b'{"data":[],"x":"' + b"x" * (4 << 20) + b'"}', JSON_TYPE),
    "closes": (Close(),),
    "resets in the body": (Send(head(200, {"content-length": "100"}) + b'{"data":['), Reset()),
    "does not answer": (Silent(),),
    "stops in the body": (Send(head(200, {"content-length": "100"}) + b'{"data":['), Silent()),
}


@pytest.mark.parametrize("name", CANNOT)
def test_the_configured_models_are_listed_if_the_provider_lists_none(proxy: Loopback, name: str) -> None:
    """The response takes at most two seconds and one attempt. Each routed model has a description."""
    proxy.provider.put(CANNOT[name])
    before = time.monotonic()
    listed = get(proxy)
    assert time.monotonic() - before < TIMEOUT_S + MARGIN_S

    assert ids(listed) == ["my-model"]
    assert json.loads(get(proxy, f"{MODELS}/gpt-5").body)["id"] == "gpt-5"
    assert get(proxy, f"{MODELS}/claude").outcome == (404, "model_not_found")
    assert len(proxy.provider.requests) == 1
    assert b"canary" not in listed.body
    assert proxy.ask(completion("Hi")).status == 200


def test_the_last_list_is_served_while_the_provider_fails(proxy: Loopback) -> None:
    """IBEX serves the new list after the next successful refresh."""
    first = ids(get(proxy))
    proxy.clock.passed += timedelta(seconds=REFRESH_S)
    proxy.provider.put(error(500), model_list(model_object("gpt-9")))

    assert ids(get(proxy)) == first
    assert ids(get(proxy)) == first
    assert len(proxy.provider.requests) == 2
    proxy.clock.passed += timedelta(seconds=REFRESH_S)
    assert ids(get(proxy)) == ["gpt-9"]


def test_concurrent_requests_share_one_call(proxy: Loopback) -> None:
    """The call continues after the client that caused it has left."""
    gate = Gate()
    proxy.provider.put((Pause(gate), *model_list(model_object("gpt-9"))))
    leaving = proxy.connect()
    leaving.send(request(proxy))
    proxy.wait_for(lambda: len(proxy.provider.requests) == 1)
    clients = [proxy.connect() for _ in range(5)]
    for client in clients:
        client.send(request(proxy))
    leaving.close()
    gate.open()

    assert [ids(client.response()) for client in clients] == [["gpt-9"]] * 5
    for client in clients:
        client.close()
    assert len(proxy.provider.requests) == 1
