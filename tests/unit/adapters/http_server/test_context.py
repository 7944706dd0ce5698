"""Tests of the request context, which is derived from the headers."""

from __future__ import annotations

from uuid import UUID

import pytest

from harness.chat_scene import BEARER, TOKEN_TEXT
from harness.http_scene import scope_of
from harness.memory.ids import SequentialIds
from ibex.adapters.http_server.context import RequestContext, bearer_token, context_of

ID = "0190163D-8694-739B-AEA5-966C26F8AD91"
TRACE = "0af7651916cd43dd8448eb211c80319c"


def context(*headers: tuple[bytes, bytes]) -> RequestContext:
    """Return the context of a request with these headers."""
    return RequestContext.begin(scope_of("GET", "/", headers), SequentialIds(), 0)


def test_a_request_id_that_is_a_uuid_is_kept() -> None:
    """Its letters may be in either case."""
    assert context((b"x-request-id", ID.encode())).request_id == UUID(ID)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"42",
        b"{" + ID.encode() + b"}",
        ID.replace("-", "").encode(),
        b"urn:uuid:" + ID.encode(),
        b"\xff",
        str(UUID(int=0)).encode(),
        str(UUID(int=2**128 - 1)).upper().encode(),
        ID.replace("0", "\u0660").encode(),
        b"\xa0" + ID.encode(),
    ],
)
def test_any_other_request_id_is_replaced(value: bytes) -> None:
    """The new id is a UUIDv7."""
    assert context((b"x-request-id", value)).request_id.version == 7


def test_two_request_ids_are_ignored() -> None:
    """It is unknown which of them counts."""
    assert context((b"x-request-id", ID.encode()), (b"x-request-id", ID.encode())).request_id != UUID(ID)


@pytest.mark.parametrize(
    "traceparent",
    [
        f"00-{TRACE}-b7ad6b7169203331-01",
        f"00-{TRACE}-b7ad6b7169203331-00",
        f"01-{TRACE}-b7ad6b7169203331-01",
        f"cc-{TRACE}-b7ad6b7169203331-01-what-the-future-brings",
    ],
)
def test_a_valid_trace_context_is_continued(traceparent: str) -> None:
    """Later versions are parsed as far as possible (W3C Trace Context), with the client's span and its flags."""
    begun = context((b"traceparent", traceparent.encode()))

    assert begun.trace_id == TRACE
    assert begun.parent == traceparent[36:55]


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        f"ff-{TRACE}-b7ad6b7169203331-01",
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-b7ad6b7169203331-01-more",
        f"00-{TRACE.upper()}-b7ad6b7169203331-01",
        f"00-{TRACE}-b7ad6b7169203331",
        f"00-{TRACE}-b7ad6b7169203331-01\n",
    ],
)
def test_an_invalid_trace_context_is_replaced(traceparent: str) -> None:
    """The new trace id has 32 hex digits and no parent."""
    begun = context((b"traceparent", traceparent.encode()))

    assert begun.trace_id != TRACE
    assert len(bytes.fromhex(begun.trace_id)) == 16
    assert begun.parent is None


def test_repeated_header_fields_are_joined() -> None:
    """RFC 9110 defines that, and it makes two tokens one invalid token."""
    twice = context((b"authorization", b"Bearer a"), (b"authorization", b"Bearer b"))

    assert twice.field(b"authorization") == "Bearer a, Bearer b"
    assert twice.field(b"x-absent") is None


def test_credentials_come_from_headers_and_path() -> None:
    """An absent one is None."""
    scope = scope_of("GET", "/", [(b"authorization", BEARER.encode()), (b"x-ibex-agent-id", b" agent ")])
    claimed = RequestContext.begin(scope, SequentialIds(), 0).credentials("org")

    assert (claimed.token, claimed.agent_id, claimed.org_id) == (TOKEN_TEXT, "agent", "org")
    nothing = context().credentials(None)
    assert (nothing.token, nothing.agent_id, nothing.org_id) == (None, None, None)


@pytest.mark.parametrize(
    "authorization", [BEARER, BEARER.replace("Bearer", "bearer"), BEARER.replace(" ", "   "), f"  {BEARER} "]
)
def test_a_bearer_token_is_parsed_according_to_rfc_9110(authorization: str) -> None:
    """The case of the scheme and the surrounding spaces do not matter."""
    assert bearer_token(authorization) == TOKEN_TEXT


@pytest.mark.parametrize("authorization", [None, "", " ", "Bearer", "Bearer ", "Bearer\t", "Basic abc", TOKEN_TEXT])
def test_an_authorization_without_a_bearer_token_is_none(authorization: str | None) -> None:
    """Another scheme or a scheme without a token is also None."""
    assert bearer_token(authorization) is None


@pytest.mark.parametrize("token", ["x", "a b", "a, Bearer a", "\xa0a", "\ta"])
def test_all_text_after_the_scheme_is_the_token(token: str) -> None:
    """Admission validates the token later."""
    assert bearer_token(f"Bearer {token}") == token


def test_the_context_is_found_in_the_scope() -> None:
    """The scope's state may have other members. The repr contains no header."""
    scope = scope_of("GET", "/", [(b"authorization", BEARER.encode())]) | {"state": {"a": 1}}
    begun = RequestContext.begin(scope, SequentialIds(), 0)

    assert context_of(scope) is begun
    assert BEARER[-9:] not in repr(begun)
    with pytest.raises(TypeError):
        context_of({"state": {"ibex.request": None}})


@pytest.mark.parametrize("blank", [b"\xa0", b"\x85", b"\x1c", b"\x1f", b"\x0b", b"\x0c", b"\xc2\xa0", b"\xe2\x80\x8b"])
@pytest.mark.parametrize("name", [b"authorization", b"x-ibex-agent-id", b"content-type", b"x-ibex-session-end"])
def test_only_spaces_and_tabs_are_stripped(name: bytes, blank: bytes) -> None:
    """Other white space belongs to the value (RFC 9110, 5.5)."""
    value = b"true"
    assert context((name, b" \t" + value + b"\t ")).field(name) == "true"
    assert context((name, blank + value)).field(name) == (blank + value).decode("latin-1")
    assert context((name, value + blank)).field(name) == (value + blank).decode("latin-1")
