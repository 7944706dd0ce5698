"""The HTTP surface conforms to ``/schema``: generated requests, both valid and invalid."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from harness.loopback import Loopback
from harness.openai import ScriptedOpenAI

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.integration

POSTS = [
    ("POST", f"{root}/{path}")
    for root in ("/v1", "/v1/orgs/{org_id}")
    for path in ("chat/completions", "responses", "responses/input_tokens", "embeddings")
]
OF_STORED_RESPONSES = [
    (method, f"{root}/responses/{{id}}{rest}")
    for root in ("/v1", "/v1/orgs/{org_id}")
    for method, rest in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items"))
]
READS = [
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{model_id}"),
    ("GET", "/v1/internal/auth-probe"),
    ("GET", "/v1/orgs/{org_id}/auth-probe"),
]
OPEN = [("GET", path) for path in ("/health", "/ready", "/metrics")]
WRONG_AND_RIGHT = [
    (*operation, mode) for operation in (*POSTS, *OF_STORED_RESPONSES, *READS) for mode in GenerationMode
]
CASES = WRONG_AND_RIGHT + [(*operation, GenerationMode.POSITIVE) for operation in OPEN]  # no input to be invalid
CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
OUR_FAULT = {500, 502, 504}


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    """A running proxy over a scripted provider."""
    folder = tmp_path_factory.mktemp("schema")
    with ScriptedOpenAI.in_thread() as provider, Loopback.running(provider, folder) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def schema(proxy: Loopback) -> Any:
    """The schema that the proxy serves."""
    return schemathesis.openapi.from_url(f"{proxy.address}/schema/openapi.json")


def test_every_documented_operation_is_tested(proxy: Loopback) -> None:
    """The operations of this module are exactly those of the schema."""
    with proxy.client() as client:
        client.send(b"GET /schema/openapi.json HTTP/1.1\r\nhost: ibex.test\r\n\r\n")
        paths = json.loads(client.response().body)["paths"]
    methods = {"get", "post", "put", "patch", "delete", "options", "head"}
    documented = [(method.upper(), path) for path, item in paths.items() for method in item if method in methods]
    assert sorted(documented) == sorted((*POSTS, *OF_STORED_RESPONSES, *READS, *OPEN))


@pytest.mark.hypothesis
@pytest.mark.timeout(0)  # ``make fuzz`` decides how long
@pytest.mark.parametrize(("method", "path", "mode"), CASES)
def test_responses_conform_to_the_schema(
    proxy: Loopback, schema: Any, method: str, path: str, mode: GenerationMode
) -> None:
    """This covers status, content type, headers and body, with and without a token. No status is a server error."""
    statuses = set()
    assert settings.default is not None

    @settings(max_examples=settings.default.max_examples // 4, suppress_health_check=list(HealthCheck))
    @given(case=schema[path][method].as_strategy(generation_mode=mode))
    def answers(case: Any) -> None:
        for token in (None, proxy.token):
            if token is not None:
                case.headers = {**(case.headers or {}), "Authorization": f"Bearer {token}"}
                if mode is GenerationMode.POSITIVE and (method, path) in POSTS:
                    case.body["model"] = "gpt-4o"  # a routed model
                    case.body.pop("previous_response_id", None)  # no response is stored
            response = case.call()
            case.validate_response(response, checks=CHECKS)
            assert response.status_code not in OUR_FAULT
            statuses.add(response.status_code)

    answers()
    if (method, path) not in OPEN:
        assert statuses & {401, 403}
    if mode is GenerationMode.POSITIVE and "{" not in path and (method, path) != READS[2]:
        assert 200 in statuses
