"""The path of one chat completion, from the credentials to the response."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from harness.chat_scene import (
    AGENT,
    DIRECTIVE,
    DIRECTIVE_TEXT,
    DISK_FULL,
    ORG,
    OTHER_AGENT,
    OTHER_ORG,
    REFUSAL_DELAY_S,
    REQUEST_ID,
    TOKEN,
    TOKEN_TEXT,
    TRACE_ID,
    ChatScene,
    ScriptedStream,
    chat_request,
    event,
    principal,
)
from ibex.adapters.openai_api.chat_injection import Message
from ibex.adapters.openai_api.chat_request import ChatRequest
from ibex.domain.errors import (
    AgentNotAuthorizedError,
    AgentSuspendedError,
    AuthUnavailableError,
    ErrorCode,
    FieldCode,
    FieldError,
    IbexError,
    InsufficientPermissionsError,
    InvalidJsonError,
    InvalidTokenError,
    MissingAgentIdError,
    MissingTokenError,
    OverloadedError,
    PayloadTooLargeError,
    ProviderNotConfiguredError,
    RateLimitedError,
    ServiceDegradedError,
    TooManyGuessesError,
    TooManyLookupsError,
    ValidationError,
)
from ibex.domain.identity.model import Agent, AgentStatus
from ibex.domain.identity.permissions import READ_ONLY, Permission
from ibex.domain.identity.rate_limits import RateLimitDecision
from ibex.domain.ids import session_id
from ibex.domain.provider_errors import (
    ProviderRateLimitedError,
    ProviderRefusal,
    ProviderRefusedError,
    ProviderTimeoutError,
    ProviderUnavailableError,
)
from ibex.domain.proxying.admission import Credentials
from ibex.domain.proxying.provider import Dialect, ProviderBody, TraceContext
from ibex.domain.proxying.proxy_request import BufferedResponse, RefusedResponse
from ibex.domain.proxying.refused_requests import RefusedRequests
from ibex.domain.proxying.streaming import StreamedResponse
from ibex.domain.record.exchange import Caller, DirectiveReceipt, Timings, provider_span_id
from ibex.domain.record.sessions import checkpoint_of
from ibex.domain.record.summary import Usage
from ibex.domain.record.traces import trace_of

if TYPE_CHECKING:
    from collections.abc import Callable

BODY = (
    b'{ "id": "c-1", "model": "gpt-4o-2024-08-06", "choices": [ {"index": 0, "finish_reason": "stop",'
    b' "message": {"role": "assistant", "content": "Hi \\u00e4"} } ],'
    b' "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18,'
    b' "prompt_tokens_details": {"cached_tokens": 5}, "completion_tokens_details": {"reasoning_tokens": 2}} }\n'
)
ANSWER = ProviderBody(BODY, attempts=2, provider_request_id="req_1", processing_ms=412)
WRONG_FIELD = FieldError("model", FieldCode.REQUIRED, "is required")


def scene_of(answer: ProviderBody | Exception = ANSWER) -> ChatScene:
    """Return a scene whose provider sends a buffered response."""
    return ChatScene(answer, chat_request())


@dataclass(frozen=True, slots=True)
class Row:
    """A refusal, and the stages that the request must have reached."""

    arrange: Callable[[ChatScene], object]
    error: type[IbexError]
    caller: Caller | None = None
    body_read: bool = False
    directive_asked: bool = False
    provider_asked: bool = False


WITH_TOKEN = Caller(ORG, TOKEN.token_id)
WITH_AGENT = Caller(ORG, TOKEN.token_id, AGENT)


def given(**answers: object) -> Callable[[ChatScene], None]:
    """Return a change of the scene: these answers of the named neighbours, and these attributes."""

    def arrange(scene: ChatScene) -> None:
        for name, answer in answers.items():
            neighbour = getattr(scene, name)
            if hasattr(neighbour, "answer"):
                neighbour.answer = answer
            else:
                setattr(scene, name, answer)

    return arrange


def claiming(
    token: str | None = TOKEN_TEXT, agent_id: str | None = str(AGENT), org_id: str | None = None
) -> Callable[[ChatScene], None]:
    """Return a change of the client's credentials."""
    return given(credentials=Credentials(token, agent_id, org_id))


def agent_is(status: AgentStatus) -> Callable[[ChatScene], None]:
    """Return a change of the agent's status."""
    return given(agents=Agent(AGENT, ORG, status))


REFUSALS = {
    "no token": Row(claiming(None), MissingTokenError),
    "garbage": Row(claiming("sk-something-else"), InvalidTokenError),
    "a wrong checksum": Row(claiming(TOKEN_TEXT[:-1] + ("1" if TOKEN_TEXT[-1] == "0" else "0")), InvalidTokenError),
    "a token that nobody has": Row(given(tokens=InvalidTokenError()), InvalidTokenError),
    "a token that cannot be checked": Row(given(tokens=ServiceDegradedError()), ServiceDegradedError),
    "another organization's path": Row(claiming(org_id=str(OTHER_ORG)), InsufficientPermissionsError, WITH_TOKEN),
    "no permissions": Row(given(tokens=principal(permissions=Permission(0))), InsufficientPermissionsError, WITH_TOKEN),
    "read only": Row(given(tokens=principal(permissions=READ_ONLY)), InsufficientPermissionsError, WITH_TOKEN),
    "no agent": Row(claiming(agent_id=None), MissingAgentIdError, WITH_TOKEN),
    "an agent that is no UUID": Row(claiming(agent_id="support"), ValidationError, WITH_TOKEN),
    "an agent that the token is not bound to": Row(
        given(tokens=principal(agent_id=OTHER_AGENT)), AgentNotAuthorizedError, WITH_TOKEN
    ),
    "an agent that the organization has not": Row(
        given(agents=AgentNotAuthorizedError()), AgentNotAuthorizedError, WITH_TOKEN
    ),
    "an agent that cannot be checked": Row(given(agents=AuthUnavailableError()), AuthUnavailableError, WITH_TOKEN),
    "a paused agent": Row(agent_is(AgentStatus.PAUSED), AgentSuspendedError, WITH_TOKEN),
    "a suspended agent": Row(agent_is(AgentStatus.SUSPENDED), AgentSuspendedError, WITH_TOKEN),
    "an archived agent": Row(agent_is(AgentStatus.ARCHIVED), AgentSuspendedError, WITH_TOKEN),
    "a body that is no JSON": Row(given(body=InvalidJsonError()), InvalidJsonError, WITH_AGENT, body_read=True),
    "a body that is too large": Row(
        given(body=PayloadTooLargeError()), PayloadTooLargeError, WITH_AGENT, body_read=True
    ),
    "a body with a wrong field": Row(
        given(body=ValidationError((WRONG_FIELD,))), ValidationError, WITH_AGENT, body_read=True
    ),
    "a session that cannot be called so": Row(
        given(session_handle="spaces are not allowed"), ValidationError, WITH_AGENT, body_read=True
    ),
    "an empty session": Row(given(session_handle=""), ValidationError, WITH_AGENT, body_read=True),
    "a model that nobody serves": Row(
        given(body=chat_request(model="llama")), ProviderNotConfiguredError, WITH_AGENT, body_read=True
    ),
    "a directive that cannot be known": Row(
        given(directives=ServiceDegradedError()),
        ServiceDegradedError,
        WITH_AGENT,
        body_read=True,
        directive_asked=True,
    ),
} | {
    f"the provider fails with {type(error).__name__}": Row(
        given(provider=error), type(error), WITH_AGENT, body_read=True, directive_asked=True, provider_asked=True
    )
    for error in (
        ProviderUnavailableError(attempts=4),
        ProviderTimeoutError(provider_request_id="req_9"),
        ProviderRateLimitedError(retry_after_s=3),
        ProviderRefusedError(ProviderRefusal.NOT_FOUND, provider_code="model_not_found"),
    )
}


@pytest.mark.parametrize("name", REFUSALS)
async def test_a_refused_request_reaches_no_later_stage(name: str) -> None:
    """Each refusal has its error. Later stages are the body, the directive and the provider."""
    row = REFUSALS[name]
    scene = scene_of()
    row.arrange(scene)

    reply = await scene.use_case()(scene.call())

    assert isinstance(reply, RefusedResponse)
    assert type(reply.error) is row.error
    assert (scene.body.reads, len(scene.directives.asked), len(scene.provider.asked)) == (
        int(row.body_read),
        int(row.directive_asked),
        int(row.provider_asked),
    )


@pytest.mark.parametrize("name", REFUSALS)
async def test_a_refusal_is_recorded_if_its_organization_is_known(name: str) -> None:
    """A checkpoint is recorded too if the provider was called."""
    row = REFUSALS[name]
    scene = scene_of()
    row.arrange(scene)

    await scene.use_case()(scene.call())

    assert scene.journaled is (row.caller is not None)
    assert scene.exchange.caller == row.caller
    assert scene.exchange.error_code is row.error.code
    assert not scene.exchange.is_complete
    assert (scene.exchange.model is not None) is (row.directive_asked or row.provider_asked)  # once it is routed
    assert (trace_of(scene.exchange) is not None) is (row.caller is not None)
    assert (checkpoint_of(scene.exchange) is not None) is row.provider_asked


async def test_a_caller_over_its_limit_is_refused_before_its_body_is_read() -> None:
    """The request after the last allowed one is a 429 with a delay. The next minute allows requests again."""
    scene = scene_of()
    scene.tokens.answer = principal(rate_limit_rpm=2)
    complete = scene.use_case()

    replies = [await complete(scene.call()) for _ in range(3)]

    assert [type(reply) for reply in replies] == [BufferedResponse, BufferedResponse, RefusedResponse]
    refusal = replies[2]
    assert isinstance(refusal, RefusedResponse)
    assert isinstance(refusal.error, RateLimitedError)
    assert refusal.error.retry_after_s == 55
    assert refusal.in_flight.rate_limit == RateLimitDecision(
        allowed=False, limit=2, remaining=0, reset_unix_s=1_767_323_100, retry_after_s=55
    )
    assert scene.body.reads == len(scene.provider.asked) == 2
    assert [s.exchange.emitter_seq for s in scene.observer.exchanges] == [1, 2, 3]

    scene.clock.advance(timedelta(seconds=55))
    assert isinstance(await complete(scene.call()), BufferedResponse)


async def test_refusals_beyond_the_limit_of_refusals_are_delayed() -> None:
    """They are recorded first, so that their durations exclude the delay. Refusals within the limit are not delayed."""
    scene = scene_of()
    scene.refusals = RefusedRequests(default_rpm=2)
    scene.tokens.answer = principal(rate_limit_rpm=2)
    scene.credentials = Credentials(TOKEN_TEXT, str(OTHER_AGENT))
    scene.agents.answer = AgentNotAuthorizedError()
    complete = scene.use_case()

    for number in range(1, 5):
        assert isinstance(await complete(scene.call()), RefusedResponse)
        assert len(scene.delays) == max(0, number - 2)

    assert set(scene.delays) == {REFUSAL_DELAY_S}


@pytest.mark.parametrize(
    ("of_the_token", "error", "delays"),
    [
        (True, ServiceDegradedError(), []),
        (True, TooManyGuessesError(), [REFUSAL_DELAY_S]),
        (False, AuthUnavailableError(), []),
        (False, TooManyLookupsError(), [REFUSAL_DELAY_S]),
    ],
)
async def test_guesses_and_lookups_beyond_their_limit_are_delayed(
    error: IbexError, delays: list[float], *, of_the_token: bool
) -> None:
    """An outage is not delayed."""
    scene = scene_of()
    (scene.tokens if of_the_token else scene.agents).answer = error

    assert isinstance(await scene.use_case()(scene.call()), RefusedResponse)
    assert scene.delays == delays


async def test_all_wrong_headers_and_fields_are_reported_together() -> None:
    """The error lists a wrong session and a wrong field together."""
    scene = scene_of()
    given(body=ValidationError((WRONG_FIELD,)), session_handle="no/slash")(scene)

    reply = await scene.use_case()(scene.call())

    assert isinstance(reply, RefusedResponse)
    assert isinstance(reply.error, ValidationError)
    assert [e.field for e in reply.error.field_errors] == ["session_id", "model"]
    assert scene.exchange.session is None


async def test_a_buffered_response_consists_of_the_providers_bytes() -> None:
    """The body is returned as the same object, after it has been recorded."""
    scene = scene_of()

    reply = await scene.use_case()(scene.call())

    assert isinstance(reply, BufferedResponse)
    assert reply.body is BODY
    assert reply.in_flight.processing_ms == 412
    assert scene.journaled


async def test_the_exchange_of_a_buffered_response_is_recorded_completely() -> None:
    """The exchange contains the caller, the session, the routing, the usage, the hashes and the durations."""
    scene = scene_of()
    scene.ends_session = True

    await scene.use_case()(scene.call())

    exchange = scene.exchange
    assert (exchange.request_id, exchange.trace_id, exchange.caller) == (REQUEST_ID, TRACE_ID, WITH_AGENT)
    assert exchange.session is not None
    assert exchange.session.id == session_id(ORG, AGENT, "conversation-1")
    assert (exchange.session.handle, exchange.session.ends) == ("conversation-1", True)
    assert (exchange.model, exchange.provider, exchange.is_streaming) == ("gpt-4o", "openai", False)
    assert (exchange.attempts, exchange.provider_request_id) == (2, "req_1")
    assert exchange.summary.usage == Usage(11, 7, 18, 5, 2)
    assert exchange.summary.model == "gpt-4o-2024-08-06"
    assert exchange.summary.completion_hash == hashlib.sha256("Hi ä".encode()).hexdigest()
    assert exchange.messages_hash == hashlib.sha256(chat_request().raw_messages).hexdigest()
    assert exchange.directive == DirectiveReceipt(DIRECTIVE.version_id, 3, DIRECTIVE.sha256)
    assert (exchange.status, exchange.error_code, exchange.is_complete) == (200, None, True)
    assert exchange.reached_provider
    assert exchange.emitter_seq == 1


async def test_the_directive_precedes_the_clients_messages() -> None:
    """The bytes of the messages are unchanged."""
    scene = scene_of()

    await scene.use_case()(scene.call())

    (asked,) = scene.provider.asked
    first, *others = json.loads(asked.body)["messages"]
    assert first == {"role": "system", "content": DIRECTIVE_TEXT}
    assert others == [json.loads(message.raw) for message in chat_request().messages]
    assert chat_request().messages[0].raw in asked.body


async def test_without_a_directive_the_body_is_unchanged() -> None:
    """The body of a buffered request without a directive reaches the provider as the very same object."""
    scene = scene_of()
    scene.directives.answer = None

    reply = await scene.use_case()(scene.call())

    assert isinstance(scene.body.answer, ChatRequest)
    assert scene.provider.asked[0].body is scene.body.answer.body
    assert reply.in_flight.directive is None
    assert scene.exchange.directive is None


@pytest.mark.parametrize(
    ("reports_usage", "client_asked", "asked_upstream"), [(True, None, True), (True, False, True), (False, None, False)]
)
async def test_usage_is_requested_on_every_stream_of_a_provider_that_supports_it(
    *, reports_usage: bool, client_asked: bool | None, asked_upstream: bool
) -> None:
    """It is requested even if the client declines usage, but never from a provider that refuses the option."""
    scene = ChatScene(ScriptedStream([]), chat_request(stream=True, include_usage=client_asked))
    scene.provider.dialect = Dialect(asks_for_usage=reports_usage)

    reply = await scene.use_case()(scene.call())

    assert isinstance(reply, StreamedResponse)
    await reply.aclose()
    (asked,) = scene.provider.asked
    sent = json.loads(asked.body).get("stream_options")
    assert sent == ({"include_usage": True} if asked_upstream else None)


async def test_a_directive_is_merged_for_a_provider_that_accepts_one_instruction() -> None:
    """The dialect of the provider decides how the directive is injected."""
    instruction = Message("system", b'{"role":"system","content":"Be kind."}')
    scene = ChatScene(ANSWER, chat_request().with_messages((instruction,)))
    scene.provider.dialect = Dialect(merges_instructions=True)

    await scene.use_case()(scene.call())

    (asked,) = scene.provider.asked
    (message,) = json.loads(asked.body)["messages"]
    assert message == {"role": "system", "content": f"{DIRECTIVE_TEXT}\n\nBe kind."}


async def test_a_request_without_a_session_gets_a_new_session() -> None:
    """The generated handle is a UUID, and the response contains it."""
    scene = scene_of()
    scene.session_handle = None
    complete = scene.use_case()

    replies = [await complete(scene.call()) for _ in range(2)]

    handles = [reply.in_flight.session.handle for reply in replies if reply.in_flight.session]
    assert len(set(handles)) == 2
    assert all(UUID(handle).version == 7 for handle in handles)


async def test_a_bound_token_needs_no_agent_header() -> None:
    """The default agent is the one that the token is bound to."""
    scene = scene_of()
    scene.tokens.answer = principal(agent_id=AGENT)
    scene.credentials = Credentials(TOKEN_TEXT)

    assert isinstance(await scene.use_case()(scene.call()), BufferedResponse)
    assert scene.exchange.caller == WITH_AGENT


async def test_a_response_with_the_finish_reason_error_is_recorded_as_a_failure() -> None:
    """The client gets it unchanged."""
    body = BODY.replace(b'"stop"', b'"error"')
    scene = scene_of(ProviderBody(body))

    response = await scene.use_case()(scene.call())

    assert isinstance(response, BufferedResponse)
    assert response.body == body
    assert not scene.exchange.is_complete
    assert scene.exchange.error_code is ErrorCode.PROVIDER_UNAVAILABLE
    assert scene.exchange.summary.usage.input_tokens == 11


async def test_the_reason_why_the_provider_was_not_reached_is_recorded() -> None:
    """Only operators see it: the error's message stays the same."""
    error = ProviderUnavailableError(attempts=4)
    error.connect_failure = "cannot connect to api.openai.com: name not resolved"
    scene = scene_of(error)

    reply = await scene.use_case()(scene.call())

    assert isinstance(reply, RefusedResponse)
    assert reply.error.message == ProviderUnavailableError.default_message
    assert scene.exchange.connect_failure == error.connect_failure


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>busy</html>", b"[]", b'{"error": {"message": "secret words", "type": "server_error"}}', b"\xff"],
)
async def test_a_200_without_a_completion_is_a_failure_of_the_provider(body: bytes) -> None:
    """The error is PROVIDER_UNAVAILABLE. The request id and the attempts are recorded, and its text is not."""
    scene = scene_of(ProviderBody(body, attempts=3, provider_request_id="req_7"))

    reply = await scene.use_case()(scene.call())

    assert isinstance(reply, RefusedResponse)
    assert isinstance(reply.error, ProviderUnavailableError)
    assert "secret" not in repr(reply.error)
    assert (scene.exchange.attempts, scene.exchange.provider_request_id) == (3, "req_7")
    assert scene.exchange.reached_provider


@pytest.mark.parametrize(("attempts", "reached"), [(0, False), (2, True)])
async def test_a_provider_without_a_connection_counts_as_not_reached(attempts: int, *, reached: bool) -> None:
    """An earlier attempt changes that, because the provider may have received the request."""
    scene = scene_of(OverloadedError(retry_after_s=1, attempts=attempts))

    reply = await scene.use_case()(scene.call())

    assert isinstance(reply, RefusedResponse)
    assert isinstance(reply.error, OverloadedError)
    assert (scene.exchange.attempts, scene.exchange.reached_provider) == (attempts, reached)


async def test_attempts_and_request_id_of_a_failed_provider_are_recorded() -> None:
    """The attempts and the request id of a provider's error are in the exchange. Its time is for the response."""
    scene = scene_of(ProviderTimeoutError(attempts=4, provider_request_id="req_5", processing_ms=7))

    reply = await scene.use_case()(scene.call())

    assert (scene.exchange.attempts, scene.exchange.provider_request_id) == (4, "req_5")
    assert reply.in_flight.processing_ms == 7


async def test_the_provider_gets_the_trace_of_the_request() -> None:
    """The span id is derived from the exchange's id, so the span that is made later has the same id."""
    scene = scene_of()

    await scene.use_case()(replace(scene.call(), trace_flags=3))

    (asked,) = scene.provider.asked
    assert asked.trace == TraceContext(TRACE_ID, provider_span_id(scene.exchange.id), 3)
    assert f"{provider_span_id(scene.exchange.id):016x}" == scene.exchange.id.hex[16:]


async def test_an_unexpected_exception_is_raised_and_recorded_as_an_internal_error() -> None:
    """The exception is raised unchanged."""
    scene = scene_of()
    scene.directives.answer = RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        await scene.use_case()(scene.call())

    assert scene.journaled
    assert scene.exchange.error_code is ErrorCode.INTERNAL_ERROR


async def test_an_unavailable_journal_does_not_affect_the_response() -> None:
    """The client gets its response. Observers are notified that the exchange was not journaled."""
    scene = scene_of()
    scene.journal.failure = DISK_FULL

    reply = await scene.use_case()(scene.call())

    assert isinstance(reply, BufferedResponse)
    assert not scene.journaled
    assert scene.exchange.is_complete


async def test_stages_are_timed_separately() -> None:
    """A stage contains only its own time, and the provider's time does not count as the proxy's."""
    scene = scene_of()
    scene.tokens.on_asked = partial(scene.clock.advance, timedelta(milliseconds=1))
    scene.agents.on_asked = partial(scene.clock.advance, timedelta(milliseconds=2))
    scene.rate_limiter.on_asked = partial(scene.clock.advance, timedelta(milliseconds=3))
    scene.body.on_asked = partial(scene.clock.advance, timedelta(milliseconds=4))
    scene.directives.on_asked = partial(scene.clock.advance, timedelta(milliseconds=5))
    scene.provider.on_asked = partial(scene.clock.advance, timedelta(milliseconds=100))

    await scene.use_case()(scene.call())

    assert scene.exchange.timings == Timings(
        auth_ns=3_000_000,
        rate_limit_ns=3_000_000,
        directive_ns=5_000_000,
        inject_ns=0,
        provider_ttfb_ns=100_000_000,
        overhead_ns=15_000_000,
        total_ns=115_000_000,
    )
    assert scene.exchange.completed_at - scene.exchange.requested_at == timedelta(milliseconds=115)


async def test_a_clock_that_is_set_back_causes_no_negative_duration() -> None:
    """An exchange never ends before it began, whatever the wall clock returns."""
    scene = scene_of()
    scene.provider.on_asked = partial(scene.clock.set, scene.clock.now() - timedelta(hours=1))

    await scene.use_case()(scene.call())

    assert scene.exchange.completed_at == scene.exchange.requested_at


async def test_the_reprs_of_a_call_contain_no_token_or_text() -> None:
    """This includes the request, its response and its in-flight exchange."""
    scene = scene_of()
    call = scene.call()

    reply = await scene.use_case()(call)

    for shown in (repr(call), repr(reply), repr(scene.exchange), repr(ScriptedStream([[event(BODY)]]).reads)):
        assert TOKEN.reveal()[-49:] not in shown
        assert "Hello" not in shown
        assert "Hi " not in shown
        assert DIRECTIVE_TEXT not in shown
