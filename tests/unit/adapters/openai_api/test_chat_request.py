"""Tests of a chat completion request and its changes."""

from __future__ import annotations

import hashlib
import json

import pytest

from harness.chat_requests import parse
from ibex.adapters.openai_api.chat_injection import Message, UserMessage
from ibex.adapters.openai_api.chat_request import ChatRequest
from ibex.adapters.openai_api.raw_json import Member, encode_object


def request_of(*, stream: bool, options: bytes | None = None, stream_options: tuple[Member, ...] = ()) -> ChatRequest:
    """Return a request with unknown members before and after ``stream_options``."""
    members = [Member("model", b'"m"'), Member("first", b"1e2"), Member("messages", b"[ ]")]
    if options is not None:
        members.append(Member("stream_options", options))
    members.append(Member("last", b'{"deep" : [1.0]}'))
    return ChatRequest(
        model="m",
        is_streaming=stream,
        body=encode_object(members),
        members=tuple(members),
        messages=(),
        raw_messages=b"[ ]",
        stream_options=stream_options,
    )


def test_usage_is_requested_if_the_client_does_not_ask_for_it() -> None:
    """Absent stream options are added at the end. All other members keep their bytes and position."""
    request = request_of(stream=True)

    asking = request.asking_for_usage()

    assert asking.body == (
        b'{"model":"m","first":1e2,"messages":[ ],"last":{"deep" : [1.0]},"stream_options":{"include_usage":true}}'
    )
    assert asking.wants_usage
    assert asking.raw_messages == request.raw_messages
    assert not request.wants_usage
    assert b"include_usage" not in request.body


def test_other_stream_options_are_kept() -> None:
    """Unknown options keep their place. ``include_usage: false`` is replaced."""
    options = (Member("include_obfuscation", b" false"), Member("include_usage", b"false"), Member("x", b"[1 ]"))
    request = request_of(stream=True, options=encode_object(options), stream_options=options)

    asking = request.asking_for_usage()

    assert asking.body == (
        b'{"model":"m","first":1e2,"messages":[ ],"stream_options":{"include_obfuscation": false,"include_usage":true,'
        b'"x":[1 ]},"last":{"deep" : [1.0]}}'
    )


def test_null_stream_options_become_an_object() -> None:
    """``null`` means no options. An object replaces it."""
    asking = request_of(stream=True, options=b"null").asking_for_usage()

    assert json.loads(asking.body)["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    "request_",
    [
        request_of(stream=False),
        request_of(
            stream=True, options=b'{"include_usage" : true}', stream_options=(Member("include_usage", b"true"),)
        ),
    ],
)
def test_a_request_that_needs_no_change_is_the_same_object(request_: ChatRequest) -> None:
    """Either it is not streamed, or the client asks for usage itself."""
    assert request_.asking_for_usage() is request_


ASKING = [
    b'"stream_options":{"continuous_usage_stats":true}',
    b'"stream_options":{"include_usage":false,"continuous_usage_stats":true}',
    b'"stream_options":{"continuous_usage_stats":true,"continuous_usage_stats":false}',
    b'"usage":{"include":true}',
    b'"usage":{"x":[1 ],"include" : true }',
    b'"usage":{"include":true,"include":false}',
    b'"usage":{"include":true},"usage":null',
]
NOT_ASKING = [
    b'"stream_options":{"continuous_usage_stats":false}',
    b'"stream_options":{"continuous_usage_stats":"true"}',
    b'"stream_options":{"Continuous_Usage_Stats":true}',
    b'"usage":{"include":false}',
    b'"usage":{"include":"true"}',
    b'"usage":{"Include":true}',
    b'"usage":{"x":{"include":true}}',
    b'"usage":{}',
    b'"usage":null',
    b'"usage":true',
    b'"usage":["include",true]',
    b'"usage":{' + b",".join(b'"%d":0' % n for n in range(2_000)) + b"}",
    b'"usage":{"x":"' + b"x" * (1 << 16) + b'","include":true}',
    b'"Usage":{"include":true}',
    b'"x":{"usage":{"include":true}}',
]


@pytest.mark.parametrize(
    ("member", "hides"), [*((member, False) for member in ASKING), *((member, True) for member in NOT_ASKING)]
)
def test_usage_is_hidden_unless_the_client_asks_for_it(member: bytes, *, hides: bool) -> None:
    """The options of vLLM and OpenRouter count too. IBEX forwards them unchanged and does not validate them."""
    request = parse(b'{"model":"m","stream":true,"messages":[{"role":"user"}],' + member + b"}")

    asking = request.asking_for_usage()

    assert asking.wants_usage
    assert asking.hides_usage is hides
    assert [m for m in asking.members if m.name != "stream_options"] == [
        m for m in request.members if m.name != "stream_options"
    ]


def test_a_client_that_asks_in_two_ways_gets_its_usage() -> None:
    """The request has OpenAI's option already, so nothing is added or hidden."""
    options = b'"stream_options":{"include_usage":true,"continuous_usage_stats":true}'
    request = parse(
        b'{"model":"m","stream":true,"messages":[{"role":"user"}],"usage":{"include":true},' + options + b"}"
    )

    assert request.asking_for_usage() is request
    assert not request.hides_usage


def test_replaced_messages_keep_the_position_of_the_member() -> None:
    """The client's own messages are kept for their hash."""
    request = request_of(stream=False)

    changed = request.with_messages((Message("user", b'{"role" : "user"}'), Message("tool", b"{}")))

    assert changed.body == (b'{"model":"m","first":1e2,"messages":[{"role" : "user"},{}],"last":{"deep" : [1.0]}}')
    assert changed.content_hash() == request.content_hash() == hashlib.sha256(b"[ ]").hexdigest()


def test_reprs_contain_no_text() -> None:
    """A repr contains sizes but no content."""
    secret = b'"my secret"'
    message = Message("user", secret)
    member = Member("my secret", secret)
    user = UserMessage(0, lambda: (member,))
    request = ChatRequest("m", False, secret, (member,), (message,), secret, user, (member,))  # noqa: FBT003 - positional fields

    for shown in (message, member, user, request):
        assert "secret" not in repr(shown)
        assert "secret" not in str(shown)
