"""Tests that a new operation needs only one class, here ``CountWords``, and an entry in the list of operations."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest

from harness.chat_scene import ScriptedStream, event, principal
from harness.http_scene import REQUEST, HttpScene
from ibex.domain.errors import FieldCode, FieldError, InvalidJsonError, ValidationError
from ibex.domain.identity.permissions import Permission
from ibex.domain.provider_errors import ProviderUnavailableError
from ibex.domain.proxying.operation import MalformedResponseError
from ibex.domain.proxying.provider import ProviderBody
from ibex.domain.record.sessions import checkpoint_of
from ibex.domain.record.summary import ResponseSummary, Usage
from ibex.domain.record.traces import NIL_ID, trace_of

if TYPE_CHECKING:
    from ibex.domain.directives.model import Directive
    from ibex.domain.proxying.operation import Target
    from ibex.domain.proxying.provider import Dialect, StreamEvent


class Count(msgspec.Struct):
    """The request body to count words, and the response."""

    model: str
    text: str = ""
    words: int = 0
    stream: bool = False


class CountRequest:
    """The ``OperationRequest``, which never changes the client's bytes."""

    def __init__(self, parsed: Count, body: bytes) -> None:
        self.model = parsed.model
        self.path = "words/count"
        self.reference = None
        self.is_streaming = parsed.stream
        self.body = body

    def content_hash(self) -> str:
        """Return the hash of the body."""
        return hashlib.sha256(self.body).hexdigest()

    def with_directive(self, directive: Directive, dialect: Dialect) -> CountRequest:
        """Fail, because the operation takes no directive."""
        raise AssertionError(directive, dialect)

    def with_directive_hidden(self, directive: Directive | None) -> CountRequest:
        """Fail, because the request names no earlier response."""
        raise AssertionError(directive)

    def asking_for_usage(self) -> CountRequest:
        """Return the request itself."""
        return self

    def response_reader(self, dialect: Dialect) -> CountReader:
        """Return the reader, the same for every dialect."""
        del dialect
        return CountReader()


class CountReader:
    """The ``ResponseReader``. The number of words is the usage, and an event ``end`` ends a stream."""

    forwards_trailing_events = False

    def __init__(self) -> None:
        self.has_ended = False
        self.failed = False
        self._words: int | None = None

    @property
    def is_complete(self) -> bool:
        """Return whether the number of words is known."""
        return self._words is not None

    def read_body(self, body: bytes) -> bytes:
        """Read the number of words."""
        try:
            self._words = msgspec.json.decode(body, type=Count).words
        except msgspec.MsgspecError:
            raise MalformedResponseError from None
        return body.replace(b"internal", b"public")

    def read_event(self, event: StreamEvent) -> bytes:
        """Hide internal events."""
        self.has_ended = event.data == b"end"
        return b"" if event.data == b"internal" else event.raw

    def error_event(self, envelope: bytes) -> bytes:
        """Return an event with a name."""
        return b"event: failed\ndata: " + envelope + b"\n\n"

    def summary(self) -> ResponseSummary:
        """Return the words as tokens."""
        return ResponseSummary("counter", Usage(output_tokens=self._words), "stop")


class CountWords:
    """The ``Operation``."""

    name: Final = "words.count"
    method: Final = "POST"
    path: Final = "words/count"
    permission: Final = Permission.MEMORY_READ
    takes_directive: Final = False
    makes_turn: Final = False
    session_header: Final = None
    summary: Final = "Count words."
    schemas: Final[dict[str, dict[str, Any]]] = {"request": {"type": "object"}, "response": {"type": "object"}}

    async def parse(self, body: bytes, target: Target) -> CountRequest:  # noqa: ARG002 - the body contains everything
        """Parse a body."""
        try:
            return CountRequest(msgspec.json.decode(body, type=Count), body)
        except msgspec.ValidationError:
            raise ValidationError((FieldError("model", FieldCode.REQUIRED, "is required"),)) from None
        except msgspec.DecodeError:
            raise InvalidJsonError from None


PATH = "/v1/words/count"
BODY = b'{"model":"gpt-4o","text":"one two"}'


def scene_of(response: Any) -> HttpScene:
    """Return a scene with both operations."""
    scene = HttpScene(response)
    scene.operations = [*scene.operations, CountWords()]
    scene.chat.provider.operations = frozenset({"chat.completions", "words.count"})
    return scene


async def test_a_second_operation_is_served_beside_the_first() -> None:
    """The provider gets the client's bytes on the operation's path, without a directive."""
    scene = scene_of(ProviderBody(b'{"model":"m","words":2,"text":"internal"}'))

    response = await scene.post(BODY, PATH)

    assert (response.status, response.body) == (200, b'{"model":"m","words":2,"text":"public"}')
    (asked,) = scene.chat.provider.asked
    assert (asked.path, asked.body, asked.is_streaming) == ("words/count", BODY, False)
    assert scene.chat.directives.asked == []
    assert "x-ibex-session-id" not in response.headers
    assert (await scene.post(REQUEST)).headers["x-ibex-session-id"]


async def test_a_second_operation_is_recorded_as_a_trace_without_a_checkpoint() -> None:
    """The trace has its name, hash and usage. It is not a turn of a session, so there is no checkpoint."""
    scene = scene_of(ProviderBody(b'{"model":"m","words":2}'))
    await scene.post(BODY, PATH)

    exchange = scene.chat.exchange
    trace = trace_of(exchange)
    assert trace is not None
    assert (exchange.operation, trace.operation, trace.checkpoint_id) == ("words.count", "words.count", NIL_ID)
    assert (exchange.messages_hash, exchange.summary.usage.output_tokens) == (hashlib.sha256(BODY).hexdigest(), 2)
    assert checkpoint_of(exchange) is None


async def test_errors_of_a_second_operation_have_the_error_envelope() -> None:
    """The errors are an invalid field, invalid JSON, and an invalid response of the provider."""
    scene = scene_of(ProviderBody(b"no JSON"))
    assert (await scene.post(b"{}", PATH)).error["field_errors"][0]["field"] == "model"
    assert (await scene.post(b"{", PATH)).error["code"] == "INVALID_JSON"
    assert (await scene.post(BODY, PATH)).error["code"] == "PROVIDER_UNAVAILABLE"


async def test_a_second_operation_requires_its_own_permission() -> None:
    """A token without that permission gets 403."""
    for permission, status in ((Permission.MEMORY_READ, 200), (Permission.TRACE_READ, 403)):
        scene = scene_of(ProviderBody(b'{"model":"m","words":2}'))
        scene.chat.tokens.answer = principal(permissions=permission)
        assert (await scene.post(BODY, PATH)).status == status


async def test_a_second_operation_defines_the_end_and_the_errors_of_its_streams() -> None:
    """Its reader hides events, recognizes the last event, and renders its own error event."""
    body = BODY[:-1] + b',"stream":true}'
    ended = scene_of(ScriptedStream([[event(b"1"), event(b"internal")], [event(b"end")]]))
    assert (await ended.post(body, PATH)).body == b"data: 1\n\ndata: end\n\n"

    failed = await scene_of(ScriptedStream([[event(b"1")], ProviderUnavailableError()])).post(body, PATH)
    assert failed.body.startswith(b"data: 1\n\nevent: failed\ndata: {")
    assert json.loads(failed.body.rpartition(b"data: ")[2])["error"]["code"] == "PROVIDER_UNAVAILABLE"


@pytest.mark.parametrize("path", [PATH, "/v1/orgs/{org_id}/words/count"])
async def test_a_second_operation_is_documented(path: str) -> None:
    """The document has its schemas."""
    document = json.loads((await scene_of(ProviderBody(b"{}")).get("/schema/openapi.json")).body)

    assert document["paths"][path]["post"]["summary"] == "Count words."
    assert "words.count.request" in document["components"]["schemas"]


async def test_a_404_lists_a_second_operation() -> None:
    """The list of endpoints derives from the routes."""
    message = (await scene_of(ProviderBody(b"{}")).get("/words/count")).error["message"]

    assert "POST /v1/chat/completions, /v1/words/count" in message
