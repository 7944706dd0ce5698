"""Tests of the injection of a directive into the messages of a request."""

from __future__ import annotations

import copy
import json
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.chat_requests import inject
from ibex.adapters.openai_api.chat_injection import Message, UserMessage
from ibex.adapters.openai_api.chat_request import ChatRequest
from ibex.adapters.openai_api.raw_json import Member, encode_object
from ibex.domain.directives.model import Directive, InjectionMode, text_hash

TEXT = 'Say "ä" \\ and\nnothing else.'
SYSTEM = b'{ "role":"system", "content":"You are \\u00e4." }'
DEVELOPER = b'{"role" : "developer","content":"Be terse."}'
ASSISTANT = b'{"content":null,"role":"assistant","tool_calls":[ {"id":"1","function":{"arguments":"{ }"}} ]}'
TOOL = b'{"role":"tool","tool_call_id":"1","content":"4.50"}'
USER = b'{"role":"user","name":"kim","content":"Hi \\ud83d there"}'
SECOND_USER = b'{"role":"user","content":"Again"}'


def directive_of(mode: InjectionMode, text: str = TEXT) -> Directive:
    """Return a directive."""
    return Directive(UUID(int=1), 7, mode, text, text_hash(text))


def message_of(raw: bytes) -> Message:
    """Return the message with this JSON text."""
    return Message(json.loads(raw)["role"], raw)


def request_of(*raws: bytes) -> ChatRequest:
    """Return a parsed request with these messages. Their values contain no nested raw bytes."""
    messages = tuple(map(message_of, raws))
    index = next((i for i, m in enumerate(messages) if m.role == "user"), None)
    user = None
    if index is not None:
        pairs = json.loads(messages[index].raw, object_pairs_hook=list)
        members_of_it = tuple(Member(name, _raw_value(messages[index].raw, name)) for name, _ in pairs)
        user = UserMessage(index, lambda: members_of_it)
    raw_messages = b"[ " + b" , ".join(raws) + b" ]"
    members = (Member("model", b'"m"'), Member("messages", raw_messages), Member("tools", b"[ {} ]"))
    return ChatRequest("m", False, encode_object(members), members, messages, raw_messages, user)  # noqa: FBT003 - by order


def _raw_value(raw: bytes, name: str) -> bytes:
    """Return the raw text of a value: from behind its name up to the end of the JSON value."""
    start = raw.index(f'"{name}"'.encode()) + len(name) + 2
    start = raw.index(b":", start) + 1
    text = raw[start:].decode().lstrip()
    _, end = json.JSONDecoder().raw_decode(text)
    return text[:end].encode()


def parsed(request: ChatRequest) -> list[dict[str, object]]:
    """Return the messages as the provider reads them from the body."""
    messages: list[dict[str, object]] = json.loads(request.body)["messages"]
    return messages


def test_a_request_without_a_directive_is_unchanged() -> None:
    """The result is the same object."""
    request = request_of(SYSTEM, USER)

    assert inject(request, None) is request


@pytest.mark.parametrize(
    ("raws", "role"),
    [
        ((USER,), "system"),
        ((SYSTEM, USER), "system"),
        ((ASSISTANT,), "system"),
        ((USER, DEVELOPER, ASSISTANT, TOOL), "developer"),
        ((DEVELOPER, DEVELOPER, USER), "developer"),
        ((DEVELOPER, USER, SYSTEM), "system"),
        ((SYSTEM, DEVELOPER, USER), "system"),
    ],
)
def test_system_first_puts_the_directive_before_all_messages(raws: tuple[bytes, ...], role: str) -> None:
    """The client's messages follow, byte for byte. The directive is a developer message if its instructions are."""
    injected = inject(request_of(*raws), directive_of(InjectionMode.SYSTEM_FIRST))

    assert [m.raw for m in injected.messages[1:]] == list(raws)
    assert (injected.messages[0].role, parsed(injected)[0]) == (role, {"role": role, "content": TEXT})


@pytest.mark.parametrize(
    ("raws", "position"),
    [
        ((USER,), 0),
        ((SYSTEM, USER), 1),
        ((SYSTEM, DEVELOPER, USER), 2),
        ((USER, SYSTEM, ASSISTANT, USER), 2),
        ((USER, ASSISTANT, TOOL, DEVELOPER), 4),
        ((ASSISTANT, TOOL), 0),
    ],
)
def test_system_append_puts_the_directive_after_the_last_instruction(raws: tuple[bytes, ...], position: int) -> None:
    """The last system or developer message precedes it. Without such a message the directive comes first."""
    injected = inject(request_of(*raws), directive_of(InjectionMode.SYSTEM_APPEND))

    assert parsed(injected)[position] == {"role": "system", "content": TEXT}
    assert [m.raw for m in injected.messages[:position] + injected.messages[position + 1 :]] == list(raws)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'"Hi"', f"[DIRECTIVE]: {TEXT}\n\nHi"),
        (b'""', f"[DIRECTIVE]: {TEXT}\n\n"),
        (
            b'[ {"type":"image_url","image_url":{"url":"data:x"}} ]',
            [
                {"type": "text", "text": f"[DIRECTIVE]: {TEXT}\n\n"},
                {"type": "image_url", "image_url": {"url": "data:x"}},
            ],
        ),
        (b"[]", [{"type": "text", "text": f"[DIRECTIVE]: {TEXT}\n\n"}]),
        (b"[ \n ]", [{"type": "text", "text": f"[DIRECTIVE]: {TEXT}\n\n"}]),
    ],
)
def test_user_prepend_puts_the_directive_into_the_first_user_message(content: bytes, expected: object) -> None:
    """It precedes a text, or becomes the first part of a list. All other members and messages are unchanged."""
    user = b'{"role":"user","name":"kim","content":' + content + b',"x":1.0}'

    injected = inject(request_of(SYSTEM, ASSISTANT, user, SECOND_USER), directive_of(InjectionMode.USER_PREPEND))

    assert parsed(injected)[2] == {"role": "user", "name": "kim", "content": expected, "x": 1.0}
    assert b'"x":1.0' in injected.messages[2].raw
    assert [m.raw for m in (*injected.messages[:2], *injected.messages[3:])] == [SYSTEM, ASSISTANT, SECOND_USER]


def test_user_prepend_keeps_the_bytes_of_the_users_own_text() -> None:
    """Escapes keep their form, even half of a surrogate pair."""
    injected = inject(request_of(USER), directive_of(InjectionMode.USER_PREPEND))

    assert injected.messages[0].raw.endswith(b'\\n\\nHi \\ud83d there"}')


@pytest.mark.parametrize(
    "raws",
    [
        (SYSTEM, ASSISTANT),
        (b'{"role":"user","content":null}',),
        (b'{"role":"user"}',),
        (b'{"role":"user","content":7}', SECOND_USER),
    ],
)
def test_user_prepend_without_a_user_text_acts_as_system_first(raws: tuple[bytes, ...]) -> None:
    """The directive is a safety rule, so it is never omitted."""
    injected = inject(request_of(*raws), directive_of(InjectionMode.USER_PREPEND))

    assert parsed(injected)[0] == {"role": "system", "content": TEXT}
    assert [m.raw for m in injected.messages[1:]] == list(raws)


TEXT_PART = b'{ "type":"text","text":"A \\u00e4" }'


@pytest.mark.parametrize(
    ("content", "before", "after"),
    [
        (b'"You \\u00e4."', f"{TEXT}\n\nYou ä.", f"You ä.\n\n{TEXT}"),
        (b'"\\ud83d\\ude42"', f"{TEXT}\n\n🙂", f"🙂\n\n{TEXT}"),
        (b'""', f"{TEXT}\n\n", f"\n\n{TEXT}"),
        (
            b"[ " + TEXT_PART + b" , " + TEXT_PART + b" ]",
            [{"type": "text", "text": f"{TEXT}\n\n"}, *[{"type": "text", "text": "A ä"}] * 2],
            [*[{"type": "text", "text": "A ä"}] * 2, {"type": "text", "text": f"\n\n{TEXT}"}],
        ),
        (b"[]", [{"type": "text", "text": f"{TEXT}\n\n"}], [{"type": "text", "text": f"\n\n{TEXT}"}]),
        (b"[\n]", [{"type": "text", "text": f"{TEXT}\n\n"}], [{"type": "text", "text": f"\n\n{TEXT}"}]),
    ],
)
@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_merged_directive_is_part_of_the_first_instruction(
    role: str, content: bytes, before: object, after: object
) -> None:
    """It is joined with a blank line, or becomes a part of its own. All other members and messages are unchanged."""
    instruction = b'{"name":"x","role":"' + role.encode() + b'","content":' + content + b',"y":1.0}'
    raws = (USER, instruction, SYSTEM, DEVELOPER)

    for mode, expected in ((InjectionMode.SYSTEM_FIRST, before), (InjectionMode.SYSTEM_APPEND, after)):
        injected = inject(request_of(*raws), directive_of(mode), merges=True)

        assert parsed(injected)[1] == {"name": "x", "role": role, "content": expected, "y": 1.0}
        assert injected.messages[1].role == role
        assert content.strip(b'"[]\n ') in injected.messages[1].raw
        assert injected.messages[1].raw.endswith(b',"y":1.0}')
        assert [m.raw for m in (injected.messages[0], *injected.messages[2:])] == [USER, SYSTEM, DEVELOPER]


@pytest.mark.parametrize("mode", [InjectionMode.SYSTEM_FIRST, InjectionMode.SYSTEM_APPEND])
@pytest.mark.parametrize("raws", [(USER, ASSISTANT), (TOOL,)])
def test_a_directive_without_an_instruction_to_merge_with_becomes_the_first_message(
    raws: tuple[bytes, ...], mode: InjectionMode
) -> None:
    """The server gets one instruction message, before all others."""
    injected = inject(request_of(*raws), directive_of(mode), merges=True)

    assert parsed(injected)[0] == {"role": "system", "content": TEXT}
    assert [m.raw for m in injected.messages[1:]] == list(raws)


@pytest.mark.parametrize("content", [b',"content":null', b',"content":7', b""])
@pytest.mark.parametrize("mode", InjectionMode)
def test_an_instruction_without_text_prevents_merging(content: bytes, mode: InjectionMode) -> None:
    """The directive is a safety rule, so it is injected as a message of its own."""
    request = request_of(b'{"role":"system"' + content + b"}", SYSTEM, ASSISTANT)

    assert inject(request, directive_of(mode), merges=True) == inject(request, directive_of(mode))


def test_user_prepend_is_merged_only_where_it_acts_as_system_first() -> None:
    """If there is a text of the user, the directive precedes that text."""
    directive = directive_of(InjectionMode.USER_PREPEND)

    request = request_of(SYSTEM, USER)

    assert inject(request, directive, merges=True) == inject(request, directive)
    (merged,) = parsed(inject(request_of(SYSTEM), directive, merges=True))
    assert merged == {"role": "system", "content": f"{TEXT}\n\nYou are ä."}


MESSAGES = st.lists(
    st.one_of(
        st.sampled_from([SYSTEM, DEVELOPER, ASSISTANT, TOOL, USER, SECOND_USER]),
        st.builds(
            lambda role, content: json.dumps({"role": role, "content": content}).encode(),
            st.sampled_from(["system", "developer", "user", "assistant", "tool", "function"]),
            st.one_of(
                st.none(),
                st.text(),
                st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": st.text()}), max_size=3),
            ),
        ),
    ),
    min_size=1,
    max_size=6,
)


@given(MESSAGES, st.sampled_from(InjectionMode), st.text(st.characters(codec="utf-8"), min_size=1))
def test_a_mode_never_drops_merges_or_reorders(raws: list[bytes], mode: InjectionMode, text: str) -> None:
    """The client's messages keep their order and bytes, except for the one that gets the prefix."""
    request = request_of(*raws)
    before = copy.deepcopy(request)

    injected = inject(request, directive_of(mode, text))

    assert request == before
    assert [json.loads(m.raw) for m in injected.messages] == parsed(injected)
    assert json.loads(injected.body)["tools"] == [{}]
    assert injected.raw_messages == request.raw_messages
    if len(injected.messages) == len(raws):
        assert mode is InjectionMode.USER_PREPEND
        assert request.first_user is not None
        index = request.first_user.index
        assert _without_prefix(parsed(injected)[index], f"[DIRECTIVE]: {text}\n\n") == json.loads(raws[index])
        assert [m.raw for i, m in enumerate(injected.messages) if i != index] == [
            raw for i, raw in enumerate(raws) if i != index
        ]
    else:
        roles = {message.role for message in request.messages}
        is_developer = mode is not InjectionMode.SYSTEM_APPEND and "developer" in roles and "system" not in roles
        own = {"role": "developer" if is_developer else "system", "content": text}
        assert any(
            parsed(injected)[i] == own and [m.raw for m in injected.messages[:i] + injected.messages[i + 1 :]] == raws
            for i in range(len(injected.messages))
        )


def _without_prefix(message: dict[str, object], prefix: str) -> dict[str, object]:
    content = message["content"]
    if isinstance(content, str):
        return message | {"content": content.removeprefix(prefix)}
    assert isinstance(content, list)
    assert content[0] == {"type": "text", "text": prefix}
    return message | {"content": content[1:]}


@given(MESSAGES, st.sampled_from(InjectionMode), st.text(st.characters(codec="utf-8"), min_size=1))
def test_merging_changes_the_content_of_one_message_at_most(raws: list[bytes], mode: InjectionMode, text: str) -> None:
    """All other messages keep their order and bytes. The directive is in the first instruction, next to its text."""
    request = request_of(*raws)
    before = copy.deepcopy(request)

    injected = inject(request, directive_of(mode, text), merges=True)

    assert request == before
    instruction = next((i for i, m in enumerate(request.messages) if m.role in {"system", "developer"}), None)
    content = None if instruction is None else json.loads(raws[instruction]).get("content")
    separately = inject(request, directive_of(mode, text))
    acts_on_a_user = mode is InjectionMode.USER_PREPEND and len(separately.messages) == len(raws)
    if acts_on_a_user or content is None or instruction is None:
        assert injected == separately
        return
    assert [json.loads(m.raw) for m in injected.messages] == parsed(injected)
    assert [m.raw for i, m in enumerate(injected.messages) if i != instruction] == [
        raw for i, raw in enumerate(raws) if i != instruction
    ]
    appends = mode is InjectionMode.SYSTEM_APPEND
    added = f"\n\n{text}" if appends else f"{text}\n\n"
    own: Any = [{"type": "text", "text": added}] if isinstance(content, list) else added
    expected = content + own if appends else own + content
    assert parsed(injected)[instruction] == json.loads(raws[instruction]) | {"content": expected}
