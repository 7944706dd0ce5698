"""Tests of the operator's own headers to the provider."""

from __future__ import annotations

import pytest

from ibex.adapters.openai.extra_headers import NO_HEADERS, parse_headers

CANARY = "canary-77"


@pytest.mark.parametrize(
    ("text", "headers"),
    [
        ("OpenAI-Project: proj_1", [("openai-project", "proj_1")]),
        ("api-key:k", [("api-key", "k")]),
        ("A: b, c\nD: e: f", [("a", "b, c"), ("d", "e: f")]),
        ("A: b; D: e;", [("a", "b"), ("d", "e")]),
        ("\r\n A: b \r\n\r\nD:\te\t \r\n", [("a", "b"), ("d", "e")]),
        ("X-Token: a  \t b", [("x-token", "a  \t b")]),
        ("Authorization: Basic Zm9v", [("authorization", "Basic Zm9v")]),
        ("Authorization:; api-key: k", [("authorization", ""), ("api-key", "k")]),
        ("User-Agent: mine", [("user-agent", "mine")]),
    ],
)
def test_headers_are_separated_by_newlines_or_semicolons(text: str, headers: list[tuple[str, str]]) -> None:
    """Names become lower case, and white space around values is removed."""
    assert list(parse_headers(text).reveal()) == headers


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it contains no header"),
        (" ;\n", "it contains no header"),
        (CANARY, "header 1 is not of the form Name: value"),
        (f"a: b; {CANARY}", "header 2 is not of the form Name: value"),
        (f": {CANARY}", "header 1 is not of the form Name: value"),
        (f"a b: {CANARY}", "header 1 is not of the form Name: value"),
        (f"a : {CANARY}", "header 1 is not of the form Name: value"),
        (f"ä: {CANARY}", "header 1 is not of the form Name: value"),
        (f"{'x' * 257}: {CANARY}", "header 1 is not of the form Name: value"),
        (f"x: {CANARY}ä", "the header x has a value with characters other than printable ASCII"),
        (f"x: {CANARY}\x00", "the header x has a value with characters other than printable ASCII"),
        ("X-A:", "the header x-a has no value"),
        (f"X-A: {CANARY}\nx-a: 2", "the header x-a is set twice"),
        *(
            (f"{name}: {CANARY}", f"the header {name.lower()} applies to one connection and cannot be set")
            for name in ("Connection", "Keep-Alive", "Proxy-Authorization", "TE", "Trailer", "Transfer-Encoding")
        ),
        *(
            (f"{name}: {CANARY}", f"the header {name.lower()} is set by IBEX and cannot be changed")
            for name in ("Host", "Content-Length", "Content-Type", "Accept", "Accept-Encoding", "traceparent")
        ),
    ],
)
def test_an_invalid_header_is_refused(text: str, reason: str) -> None:
    """The message contains the name of the header, but no value."""
    with pytest.raises(ValueError, match=reason) as raised:
        parse_headers(text)
    assert str(raised.value) == reason


def test_the_repr_of_headers_contains_no_value() -> None:
    """The repr contains the names, which help to find a mistake."""
    headers = parse_headers(f"api-key: {CANARY}; x-b: {CANARY}")
    assert f"{headers!r} {headers}" == "<ExtraHeaders api-key, x-b> <ExtraHeaders api-key, x-b>"
    assert headers == parse_headers(f"API-Key: {CANARY}\nX-B: {CANARY}")
    assert headers != NO_HEADERS
    assert len({headers, parse_headers(f"api-key: {CANARY}; x-b: {CANARY}")}) == 1


OWN = ((b"host", b"h"), (b"authorization", b"Bearer k"), (b"user-agent", b"ibex"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x: 1", (*OWN, (b"x", b"1"))),
        ("Authorization: Basic b", (OWN[0], OWN[2], (b"authorization", b"Basic b"))),
        ("Authorization:;api-key: k", (OWN[0], OWN[2], (b"api-key", b"k"))),
        ("user-agent: mine", (*OWN[:2], (b"user-agent", b"mine"))),
    ],
)
def test_a_header_replaces_an_existing_one_with_the_same_name(
    text: str, expected: tuple[tuple[bytes, bytes], ...]
) -> None:
    """An empty ``authorization`` removes it, for servers that refuse two credentials."""
    assert parse_headers(text).over(OWN) == expected


def test_no_extra_headers_leave_the_request_unchanged() -> None:
    """The default setting has no extra headers."""
    assert NO_HEADERS.over(OWN) == OWN
