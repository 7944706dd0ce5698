"""The injection of a directive into the messages of a chat completion request (ADR 0003, ADR 0055)."""

from __future__ import annotations

import json
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Final

from ibex.adapters.openai_api.raw_json import Member, ObjectSplitter, encode_object
from ibex.domain.directives.model import InjectionMode
from ibex.domain.value_object import value_object

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ibex.domain.directives.model import Directive

_SYSTEM: Final = "system"
_DEVELOPER: Final = "developer"
_INSTRUCTING_ROLES: Final = frozenset({_SYSTEM, _DEVELOPER})
_PREFIX: Final = b'"[DIRECTIVE]: '
_BLANK_LINE: Final = rb"\n\n"
_SPLITTER: Final = ObjectSplitter()


@value_object
class Message:
    """One message: its role, and the JSON text of the whole object."""

    role: str
    raw: bytes

    def __repr__(self) -> str:
        return f"<Message role={self.role} bytes={len(self.raw)}>"


@value_object
class UserMessage:
    """The first message with the role ``user``: its index, and a function that returns its members."""

    index: int
    split_members: Callable[[], tuple[Member, ...]]


def inject_directive(
    messages: tuple[Message, ...], first_user: UserMessage | None, directive: Directive, *, merges: bool
) -> tuple[Message, ...]:
    """Return the messages with the directive among them.

    No message of the client is dropped, merged, reordered or re-encoded. ``user_prepend`` without a user message, or
    with one whose content is neither text nor a list of parts, acts as ``system_first``.

    With ``merges``, the directive becomes a part of the client's first system or developer message, if there is one
    whose content is text or a list of parts.
    """
    text = _encoded(directive.text)
    if directive.mode is InjectionMode.USER_PREPEND and first_user is not None:
        change = partial(_put_before, text=_PREFIX + text[1:-1] + _BLANK_LINE + b'"')
        prepended = _with_content("user", first_user.split_members(), change)
        if prepended is not None:
            return _replaced(messages, first_user.index, prepended)
    appends = directive.mode is InjectionMode.SYSTEM_APPEND
    if merges:
        merged = _merged(messages, text, appends=appends)
        if merged is not None:
            return merged
    position = _after_instructions(messages) if appends else 0
    role = _SYSTEM if appends else _first_role(messages)
    own = Message(role, b'{"role":"' + role.encode() + b'","content":' + text + b"}")
    return (*messages[:position], own, *messages[position:])


def _after_instructions(messages: tuple[Message, ...]) -> int:
    last = max((i for i, message in enumerate(messages) if message.role in _INSTRUCTING_ROLES), default=-1)
    return last + 1


def _first_role(messages: tuple[Message, ...]) -> str:
    """Return ``developer`` if the client uses it and not ``system``, else ``system``: a model may refuse a mix."""
    role = _SYSTEM
    for message in messages:  # not a set of roles, which costs a call for each request
        if message.role == _SYSTEM:
            return _SYSTEM
        if message.role == _DEVELOPER:
            role = _DEVELOPER
    return role


def _merged(messages: tuple[Message, ...], text: bytes, *, appends: bool) -> tuple[Message, ...] | None:
    """Return the messages with the directive in the first instruction; None if no instruction can be merged with."""
    index = next((i for i, message in enumerate(messages) if message.role in _INSTRUCTING_ROLES), None)
    if index is None:
        return None
    if appends:
        change = partial(_put_after, text=b'"' + _BLANK_LINE + text[1:])
    else:
        change = partial(_put_before, text=text[:-1] + _BLANK_LINE + b'"')
    instruction = messages[index]
    members = [Member(name, bytes(raw)) for name, raw in _SPLITTER.split(instruction.raw)]
    merged = _with_content(instruction.role, members, change)
    return None if merged is None else _replaced(messages, index, merged)


def _replaced(messages: tuple[Message, ...], index: int, message: Message) -> tuple[Message, ...]:
    return (*messages[:index], message, *messages[index + 1 :])


def _with_content(role: str, members: Iterable[Member], change: Callable[[bytes], bytes | None]) -> Message | None:
    """Return the message with its content changed, or None if it has no content or ``change`` returns None."""
    changed = []
    has_changed = False
    for member in members:
        content = change(member.raw) if member.name == "content" else None
        if content is not None:
            has_changed = True
        changed.append(member if content is None else Member(member.name, content))
    return Message(role, encode_object(changed)) if has_changed else None


def _put_before(content: bytes, text: bytes) -> bytes | None:
    """Return the content with ``text``, a JSON string, prepended; None if it is neither text nor a list of parts."""
    match content[:1]:
        case b'"':
            return text[:-1] + content[1:]
        case b"[":
            rest = content[1:].lstrip()
            return b"[" + _part(text) + (b"" if rest.startswith(b"]") else b",") + rest
        case _:
            return None


def _put_after(content: bytes, text: bytes) -> bytes | None:
    """Return the content with ``text``, a JSON string, appended; None if it is neither text nor a list of parts."""
    match content[:1]:
        case b'"':
            return content[:-1] + text[1:]
        case b"[":
            rest = content[:-1].rstrip()
            return rest + (b"" if rest == b"[" else b",") + _part(text) + b"]"
        case _:
            return None


def _part(text: bytes) -> bytes:
    return b'{"type":"text","text":' + text + b"}"


@lru_cache(maxsize=256)  # of at most 32 KiB each; encoding one takes as long as the rest of the injection
def _encoded(text: str) -> bytes:
    return json.dumps(text, ensure_ascii=False).encode()
