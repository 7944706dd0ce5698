"""A chat request, and what may be changed in it."""

from __future__ import annotations

import hashlib
import json

import pytest

from ibex.adapters.openai_api.chat_request import ChatRequest, Message, UserMessage
from ibex.adapters.openai_api.raw_json import Member, encode_object


def request_of(*, stream: bool, options: bytes | None = None, stream_options: tuple[Member, ...] = ()) -> ChatRequest:
    """Return a request with a member that IBEX does not know on either side of ``stream_options``."""
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


def test_usage_is_asked_for_where_it_was_not() -> None:
    """Without stream options they are added at the end; everything else keeps its bytes and its place."""
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
    """Options that IBEX does not know stay, in place; a refusal of usage is overruled."""
    options = (Member("include_obfuscation", b" false"), Member("include_usage", b"false"), Member("x", b"[1 ]"))
    request = request_of(stream=True, options=encode_object(options), stream_options=options)

    asking = request.asking_for_usage()

    assert asking.body == (
        b'{"model":"m","first":1e2,"messages":[ ],"stream_options":{"include_obfuscation": false,"include_usage":true,'
        b'"x":[1 ]},"last":{"deep" : [1.0]}}'
    )


def test_null_stream_options_become_options() -> None:
    """``null`` is no options; asking puts an object in its place."""
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
def test_a_request_that_needs_no_asking_is_itself(request_: ChatRequest) -> None:
    """A buffered request, or a client that asked itself: the very object, its bytes untouched."""
    assert request_.asking_for_usage() is request_


def test_messages_are_exchanged_in_their_place() -> None:
    """Other messages stand where the old ones stood; the client's own stay known for their hash."""
    request = request_of(stream=False)

    changed = request.with_messages((Message("user", b'{"role" : "user"}'), Message("tool", b"{}")))

    assert changed.body == (b'{"model":"m","first":1e2,"messages":[{"role" : "user"},{}],"last":{"deep" : [1.0]}}')
    assert changed.content_hash() == request.content_hash() == hashlib.sha256(b"[ ]").hexdigest()


def test_nothing_shows_text() -> None:
    """A repr says how much there is, never what."""
    secret = b'"my secret"'
    message = Message("user", secret)
    member = Member("my secret", secret)
    user = UserMessage(0, lambda: (member,))
    request = ChatRequest("m", False, secret, (member,), (message,), secret, user, (member,))  # noqa: FBT003 - by order

    for shown in (message, member, user, request):
        assert "secret" not in repr(shown)
        assert "secret" not in str(shown)
