"""Tests of the parser for chat completion requests: parsed fields, unchanged bytes and refusals."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.chat_requests import inject, parse
from ibex.adapters.openai_api.body_parser import MAX_DEPTH, MAX_STRUCTURE
from ibex.adapters.openai_api.chat_parser import MAX_MESSAGES
from ibex.adapters.openai_api.raw_json import Member
from ibex.domain.errors import FieldCode, InvalidJsonError, ValidationError

UNDERSTOOD = {"model", "messages", "stream", "stream_options", "temperature", "max_tokens", "max_completion_tokens"}
MESSAGES = b'[{"role":"user","content":"Hi"}]'


def body(**members: bytes) -> bytes:
    """Return a valid body with these members changed; an empty value removes the member."""
    usual = {"model": b'"gpt-4o"', "messages": MESSAGES}
    return b"{" + b",".join(b'"%s":%s' % (n.encode(), v) for n, v in (usual | members).items() if v) + b"}"


def refused(text: bytes) -> list[tuple[str, FieldCode]]:
    """Return the invalid fields with their error codes."""
    with pytest.raises(ValidationError) as raised:
        parse(text)
    return [(e.field, e.code) for e in raised.value.field_errors]


def test_a_request_is_parsed() -> None:
    """The fields are model, stream, messages with roles, the members of the first user message, and stream options."""
    text = (
        b' { "model" : "gpt-4o" ,\n"messages":[ {"role":"system","content":"S"} , '
        b'{"content":[ 1 ],"role":"us\\u0065r"},{"role":"user"}], "stream":true,'
        b'"stream_options":{"include_usage": true, "x":1} } '
    )

    request = parse(text)

    assert (request.model, request.is_streaming) == ("gpt-4o", True)
    assert [(m.role, m.raw) for m in request.messages] == [
        ("system", b'{"role":"system","content":"S"}'),
        ("user", b'{"content":[ 1 ],"role":"us\\u0065r"}'),
        ("user", b'{"role":"user"}'),
    ]
    assert request.first_user is not None
    assert request.first_user.index == 1
    assert request.first_user.split_members() == (Member("content", b"[ 1 ]"), Member("role", b'"us\\u0065r"'))
    assert request.stream_options == (Member("include_usage", b"true"), Member("x", b"1"))
    assert request.wants_usage
    assert request.raw_messages == text[text.index(b"[ {") : text.index(b', "stream"')]


def test_the_body_is_not_copied() -> None:
    """A request without a directive is forwarded unchanged, without a copy."""
    text = body(temperature=b"1.00", tools=b'[ {"a" : 1e5} ]')

    request = parse(text)

    assert request.body is text
    assert inject(request, None).body is text


texts = st.text(st.characters(exclude_categories=["Cs"]))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
spaces = st.sampled_from([b"", b" ", b"\n\t ", b"\r\n"])


@st.composite
def written_requests(draw: st.DrawFn) -> tuple[list[tuple[str, bytes]], list[bytes]]:
    """Return the members of a valid request, and its messages, in any spelling that a client may use."""

    def written(value: Any) -> bytes:
        separators = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " :\t")]))
        return json.dumps(value, ensure_ascii=draw(st.booleans()), separators=separators).encode()

    message = st.fixed_dictionaries({"role": st.sampled_from(["user", "system", "tool"])}, optional={"content": texts})
    messages = [written(value) for value in draw(st.lists(message, min_size=1, max_size=5))]
    others = draw(st.lists(st.tuples(texts.filter(lambda name: name not in UNDERSTOOD), json_values), max_size=5))
    members = [
        ("model", written("gpt-4o")),
        ("messages", b"[ " + b" , ".join(messages) + b" ]"),
        *((name, written(value)) for name, value in others),
    ]
    return draw(st.permutations(members)), messages


@settings(max_examples=150, deadline=None)
@given(written_requests(), spaces)
def test_every_member_keeps_its_bytes_and_position(
    written: tuple[list[tuple[str, bytes]], list[bytes]], space: bytes
) -> None:
    """Each value keeps its raw text. This includes duplicates of members that IBEX does not parse."""
    members, messages = written
    text = b",".join(space + json.dumps(name).encode() + space + b":" + space + raw + space for name, raw in members)

    request = parse(space + b"{" + text + b"}" + space)

    assert [(m.name, m.raw) for m in request.members] == members
    assert [m.raw for m in request.messages] == messages
    assert request.raw_messages == dict(members)["messages"]
    assert all(type(m.name) is str for m in request.members)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"   ",
        b"null",
        b"[]",
        b'"text"',
        b"{",
        b'{"model":"m"',
        b'{"model":"m",}',
        b"{} {}",
        b"\xef\xbb\xbf{}",
        b'{"a":"\xff"}',
        b'{"a":"\xed\xa0\x80"}',
        b'{"\xc3":1}',
        b'{"a":"\x00"}',
        b"\x00",
        b'{"a":"\\ud800"}',
        b'{"\\udc00":1}',
        b'{"a":["\\ud800\\u0041 and much more text after it"]}',
        b'{"a":nan}',
        b'{"a":01}',
        b"{'a':1}",
        "{}".encode("utf-16"),
    ],
)
def test_a_body_that_is_not_one_json_object_in_utf8_is_refused(text: bytes) -> None:
    """Raw control characters and lone surrogates are refused too. The error code is INVALID_JSON."""
    with pytest.raises(InvalidJsonError):
        parse(text)


@pytest.mark.parametrize(
    "text", ["\\ud800", "a\\uD83Db", "\\ud800" + "x" * 100, "\\udc00", "\\ud83d\\ud83d", "x\\udbff\\n"]
)
def test_a_lone_surrogate_is_reported_as_the_reason(text: str) -> None:
    """It may be anywhere. A truncated body is not reported as a lone surrogate, nor the reverse."""
    with pytest.raises(InvalidJsonError) as refusal:
        parse(body(messages=b'[{"role":"user","content":"' + text.encode() + b'"}]'))
    assert "lone surrogate" in (refusal.value.detail or "")
    with pytest.raises(InvalidJsonError) as refusal:
        parse(b'{"model":"gpt-4o","messages":[{"role":"user","content":"\\ud83d')
    assert "truncated" in (refusal.value.detail or "")


def test_a_pair_of_surrogates_is_accepted() -> None:
    """Many clients write emoji as such a pair."""
    assert parse(body(messages=b'[{"role":"user","content":"\\ud83d\\ude00"}]')).messages


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (b"", FieldCode.REQUIRED),
        (b"null", FieldCode.REQUIRED),
        (b'""', FieldCode.REQUIRED),
        (b"5", FieldCode.INVALID_FORMAT),
        (b"true", FieldCode.INVALID_FORMAT),
        (b'["gpt-4o"]', FieldCode.INVALID_FORMAT),
        (b'"gpt-4o\\u0000"', FieldCode.INVALID_FORMAT),
        (b'"' + b"m" * 257 + b'"', FieldCode.TOO_LONG),
    ],
)
def test_model_is_a_text_of_1_to_256_characters(value: bytes, code: FieldCode) -> None:
    """Control characters are refused too, because PostgreSQL cannot store all of them."""
    assert refused(body(model=value)) == [("model", code)]


def test_a_model_of_256_characters_is_accepted() -> None:
    """The limit counts characters, not bytes."""
    assert parse(body(model='"{}"'.format("ü" * 256).encode())).model == "ü" * 256


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"", [("messages", FieldCode.REQUIRED)]),
        (b"null", [("messages", FieldCode.REQUIRED)]),
        (b"[]", [("messages", FieldCode.REQUIRED)]),
        (b"{}", [("messages", FieldCode.INVALID_FORMAT)]),
        (b'"Hi"', [("messages", FieldCode.INVALID_FORMAT)]),
        (b'{"a":"' + b"," * 5000 + b'"}', [("messages", FieldCode.INVALID_FORMAT)]),
        (b"[1]", [("messages[0]", FieldCode.INVALID_FORMAT)]),
        (b"[{}]", [("messages[0].role", FieldCode.REQUIRED)]),
        (b'[{"role":null}]', [("messages[0].role", FieldCode.REQUIRED)]),
        (b'[{"role":"user"},{"role":1}]', [("messages[1].role", FieldCode.INVALID_FORMAT)]),
        (b'[{"role":"User"}]', [("messages[0].role", FieldCode.INVALID_ENUM)]),
        (b'[{"role":""}]', [("messages[0].role", FieldCode.INVALID_ENUM)]),
        (b'[{"role":"user","role":"user"}]', [("messages[0].role", FieldCode.INVALID_FORMAT)]),
        (
            b'[{"role":"user","content":"a","c\\u006fntent":"b"}]',
            [("messages[0].content", FieldCode.INVALID_FORMAT)],
        ),
    ],
)
def test_messages_are_objects_with_a_role(value: bytes, expected: list[tuple[str, FieldCode]]) -> None:
    """Each invalid message is reported with its index."""
    assert refused(body(messages=value)) == expected


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool", "function"])
def test_openais_roles_are_accepted(role: str) -> None:
    """There are six. The content may be of any kind, or absent."""
    request = parse(body(messages=b'[{"role":"%s","content":null}]' % role.encode()))

    assert [m.role for m in request.messages] == [role]


def test_4096_messages_are_accepted_and_one_more_is_not() -> None:
    """The limit is on elements; commas in their texts do not count."""
    message = b'{"role":"user","content":",,,,"}'

    assert len(parse(body(messages=b"[" + b",".join([message] * MAX_MESSAGES) + b"]")).messages) == 4096
    assert refused(body(messages=b"[" + b",".join([message] * (MAX_MESSAGES + 1)) + b"]")) == [
        ("messages", FieldCode.TOO_MANY)
    ]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stream", b"1"),
        ("stream", b'"true"'),
        ("stream", b"{}"),
        ("temperature", b"2.0001"),
        ("temperature", b"-0.1"),
        ("temperature", b'"1"'),
        ("temperature", b"true"),
        ("temperature", b"1e400"),
        ("temperature", b"1" * 10_000),
        ("temperature", b"[]"),
        ("max_tokens", b"-0.5"),
        ("max_tokens", b"1" * 19),
        ("max_tokens", b"1.5"),
        ("max_tokens", b"1e3"),
        ("max_tokens", b"true"),
        ("max_tokens", b'"5"'),
        ("max_tokens", b"9" * 10_000),
        ("max_completion_tokens", b"0.0"),
        ("max_completion_tokens", b"false"),
        ("stream_options", b"5"),
        ("stream_options", b"[]"),
        ("stream_options.include_usage", b'{"include_usage":"yes"}'),
        ("stream_options.include_usage", b'{"include_usage":true,"include_usage":false}'),
    ],
)
def test_values_out_of_bounds_are_refused(field: str, value: bytes) -> None:
    """A boolean is not a number, a number is not a boolean, and a string is neither."""
    assert refused(body(**{field.partition(".")[0]: value})) == [(field, FieldCode.INVALID_FORMAT)]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stream", b"false"),
        ("temperature", b"0"),
        ("temperature", b"-0"),
        ("temperature", b"2"),
        ("temperature", b"2.000"),
        ("temperature", b"1E-2"),
        ("max_tokens", b"1"),
        ("max_tokens", b"0"),
        ("max_tokens", b"-1"),
        ("max_tokens", b"9" * 18),
        ("max_completion_tokens", b"0"),
        ("max_completion_tokens", b"-1"),
        ("stream_options", b'{"include_usage":null}'),
        ("seed", b"1" * 10_000),
        ("n", b'"whatever the provider says"'),
    ],
)
def test_values_within_bounds_are_accepted_unchanged(field: str, value: bytes) -> None:
    """The provider validates the other members, including numbers of ten thousand digits."""
    assert Member(field, value) in parse(body(**{field: value})).members


@pytest.mark.parametrize("field", ["stream", "stream_options", "temperature", "max_tokens", "max_completion_tokens"])
def test_null_means_absent(field: str) -> None:
    """OpenAI's API accepts null for optional members."""
    request = parse(body(**{field: b"null"}))

    assert not request.is_streaming
    assert request.stream_options == ()


@pytest.mark.parametrize(
    "field", ["model", "messages", "stream", "stream_options", "temperature", "max_tokens", "max_completion_tokens"]
)
def test_a_parsed_field_that_occurs_twice_is_refused(field: str) -> None:
    """IBEX and the provider could read different values. The second name may be written with escapes."""
    value = {"model": b'"gpt-4o"', "messages": MESSAGES}.get(field, b"null")
    escaped = b'"\\u%04x%s"' % (ord(field[0]), field[1:].encode())
    text = body(**{field: value})[:-1] + b"," + escaped + b":" + value + b"}"

    assert refused(text) == [(field, FieldCode.INVALID_FORMAT)]


def test_all_invalid_fields_are_reported_at_once() -> None:
    """One error contains all field errors of a body."""
    text = b'{"messages":[{"role":"x"},7],"stream":1,"temperature":9,"max_tokens":0.5}'

    assert refused(text) == [
        ("model", FieldCode.REQUIRED),
        ("messages[0].role", FieldCode.INVALID_ENUM),
        ("messages[1]", FieldCode.INVALID_FORMAT),
        ("stream", FieldCode.INVALID_FORMAT),
        ("temperature", FieldCode.INVALID_FORMAT),
        ("max_tokens", FieldCode.INVALID_FORMAT),
    ]


def test_errors_contain_no_values() -> None:
    """A value is client data and may contain a misplaced secret."""
    text = body(model=b'["sk-canary"]', temperature=b'"sk-canary"', messages=b'[{"role":"sk-canary"}]')

    with pytest.raises(ValidationError) as raised:
        parse(text)

    assert "canary" not in f"{raised.value!r}{raised.value.message}{raised.value.field_errors}"


def test_64_levels_are_accepted_and_65_are_not() -> None:
    """The request's object is the first level. Brackets in strings do not count."""

    def nested(levels: int) -> bytes:
        return body(metadata=b"[" * levels + b'"' + b"[" * 99 + b'\\""' + b"]" * levels)

    assert parse(nested(MAX_DEPTH - 1)).model == "gpt-4o"
    assert refused(nested(MAX_DEPTH)) == [("body", FieldCode.INVALID_FORMAT)]


def test_a_message_that_is_nested_too_deep_is_reported() -> None:
    """Request, array and message are three of the 64 levels."""

    def nested(levels: int) -> bytes:
        deep = b'{"role":"user","content":' + b"[" * levels + b"]" * levels + b"}"
        return body(messages=b'[{"role":"user","content":"{{{{{"},' + deep + b"]")

    assert len(parse(nested(MAX_DEPTH - 3)).messages) == 2
    assert refused(nested(MAX_DEPTH - 2)) == [("messages[1]", FieldCode.INVALID_FORMAT)]


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_a_hundred_thousand_levels_are_refused(opening: bytes) -> None:
    """The parser neither crashes nor takes long, whether the brackets are closed or not.

    From Python 3.14 on it reads to the end before it refuses them.
    """
    closing = b"]" if opening == b"[" else b"}"
    deep = b'{"messages":' + opening * 100_000

    for text in (deep, deep + b"1" + closing * 100_000 + b"}"):
        with pytest.raises((ValidationError, InvalidJsonError)):
            parse(text)


def test_millions_of_tiny_elements_are_refused_early() -> None:
    """The parser does not split them, because they would take a hundred times the memory of their text."""
    elements = b"[" + b"1," * 400_000 + b"1]"
    members = b",".join([b'"a":1'] * 200_000)

    assert refused(body(messages=elements)) == [("messages", FieldCode.TOO_MANY)]
    assert refused(b"{" + members + b"}") == [("body", FieldCode.TOO_MANY)]
    assert refused(body(messages=b"[{" + members + b"}]")) == [("messages[0]", FieldCode.TOO_MANY)]
    assert refused(body(stream_options=b"{" + members + b"}")) == [("stream_options", FieldCode.TOO_MANY)]


@settings(max_examples=300, deadline=None)
@given(st.binary() | st.text().map(str.encode) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_accepted_or_refused(text: bytes) -> None:
    """The parser raises no exception other than the two errors."""
    with contextlib.suppress(InvalidJsonError, ValidationError):
        parse(text)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 400), st.binary(min_size=1, max_size=3))
def test_a_request_with_overwritten_bytes_is_accepted_or_refused(position: int, damage: bytes) -> None:
    """The original request is valid."""
    text = body(stream_options=b'{"include_usage":true}', temperature=b"1.5", max_tokens=b"5", stream=b"true")
    position %= len(text)

    with contextlib.suppress(InvalidJsonError, ValidationError):
        parse(text[:position] + damage + text[position + len(damage) :])


LONG_S = "\u017f"
FOLDED = {
    "Messages": "messages",
    "MODEL": "model",
    f"me{LONG_S}{LONG_S}ages": "messages",
    "\ufb06ream": "stream",
    "Stream_Options": "stream_options",
    "max_to\u212aens": "max_tokens",
    "Max_Completion_Tokens": "max_completion_tokens",
    "tempeRature": "temperature",
}


@pytest.mark.parametrize("name", FOLDED)
@pytest.mark.parametrize("escaped", [False, True])
def test_a_name_that_equals_a_parsed_one_except_for_case_is_refused(name: str, escaped: bool) -> None:  # noqa: FBT001
    """It may be beside the real member or replace it, and may be written with escapes."""
    member = json.dumps(name, ensure_ascii=escaped).encode() + b":1"
    assert refused(body()[:-1] + b"," + member + b"}") == [(FOLDED[name], FieldCode.INVALID_FORMAT)]
    assert (FOLDED[name], FieldCode.INVALID_FORMAT) in refused(b"{" + member + b"}")


@pytest.mark.parametrize("name", ["Role", "ROLE", "Content", "CONTENT"])
@pytest.mark.parametrize("where", ["before", "after", "alone"])
def test_a_message_member_that_equals_a_parsed_one_except_for_case_is_refused(name: str, where: str) -> None:
    """This applies to every message, and only to the names that IBEX parses."""
    odd = json.dumps(name).encode() + b':"user"'
    usual = b'"role":"user","content":"x"'
    inside = {"before": odd + b"," + usual, "after": usual + b"," + odd, "alone": odd}[where]
    found = refused(body(messages=b'[{"role":"user","content":"x"},{' + inside + b"}]"))
    assert (f"messages[1].{name.casefold()}", FieldCode.INVALID_FORMAT) in found


def test_a_stream_option_that_equals_a_parsed_one_except_for_case_is_refused() -> None:
    """``include_usage`` decides which events the client gets."""
    found = refused(body(stream_options=b'{"include_usage":true,"Include_Usage":false}'))
    assert found == [("stream_options.include_usage", FieldCode.INVALID_FORMAT)]


@pytest.mark.parametrize(
    "name", ["Tools", "messages2", "messag\u00e9s", "ro\u0131e", "model ", "Metadata", "x" * 10_000]
)
def test_an_unknown_name_is_accepted(name: str) -> None:
    """The provider validates it."""
    member = json.dumps(name).encode() + b":1"
    assert parse(body()[:-1] + b"," + member + b"}").members[-1] == Member(name, b"1")


def test_at_most_32_invalid_fields_are_reported() -> None:
    """The parser stops after them."""
    wrong = b"[" + b",".join([b'{"Role":"x","role":"nobody","role":1}'] * MAX_MESSAGES) + b"]"
    found = refused(body(messages=wrong, temperature=b"9"))
    assert len(found) == 32
    assert all(field.startswith("messages[") for field, _ in found)


def test_a_long_value_is_refused_without_decoding() -> None:
    """The parser does not decode a name, a role or a boolean of several megabytes."""
    long = b'"' + b"\\ud83d\\ude00" * 100_000 + b'"'
    assert refused(body(model=long)) == [("model", FieldCode.TOO_LONG)]
    assert refused(body(messages=b'[{"role":%s}]' % long)) == [("messages[0].role", FieldCode.INVALID_ENUM)]
    assert refused(body(stream=long)) == [("stream", FieldCode.INVALID_FORMAT)]
    assert parse(body(model=b'"' + b"\\ud83d\\ude00" * 256 + b'"')).model == "\U0001f600" * 256


def test_the_structure_of_a_large_body_is_limited() -> None:
    """The limit counts brackets and commas outside strings only."""
    text = json.dumps([{"a": [1, 2]}] * 250_000).encode()
    assert len(text) > 2 << 20
    assert refused(body(x=text)) == [("body", FieldCode.TOO_MANY)]
    assert parse(body(x=b"[" + b"1," * (MAX_STRUCTURE - 100) + b"%d]" % 10**4)).members[-1].name == "x"
    as_text = json.dumps([{"role": "user", "content": text.decode()}]).encode()
    assert parse(body(messages=as_text)).messages[0].role == "user"


def test_a_large_body_that_is_not_utf8_is_refused() -> None:
    """The invalid byte may be anywhere, also at the end of a step."""
    for at in (10, 1 << 20, (1 << 20) + 1, 3_000_000):
        text = bytearray(body(x=b'"' + "\u6f22".encode() * 1_100_000 + b'"'))
        text[at] = 0xFF
        with pytest.raises(InvalidJsonError):
            parse(bytes(text))
