"""A chat request: understood where IBEX must understand it, the client's own bytes everywhere else."""

from __future__ import annotations

import hashlib
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING, Final

from ibex.domain.value_object import value_object

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MESSAGES: Final = "messages"
STREAM_OPTIONS: Final = "stream_options"
INCLUDE_USAGE: Final = "include_usage"


@value_object
class Member:
    """One member of a JSON object: its name, and the JSON text of its value as the client wrote it."""

    name: str
    raw: bytes

    def __repr__(self) -> str:
        return f"<Member {len(self.raw)} bytes>"


def encode_object(members: Iterable[Member]) -> bytes:
    """Return the JSON object with these members, in this order; the values' bytes are not touched."""
    parts = [b"{"]
    for member in members:
        parts += encode_basestring_ascii(member.name).encode(), b":", member.raw, b","
    return _joined(parts, b"}")


def encode_array(elements: Iterable[bytes]) -> bytes:
    """Return the JSON array of these elements, each given as JSON text."""
    parts = [b"["]
    for element in elements:
        parts += element, b","
    return _joined(parts, b"]")


def _joined(parts: list[bytes], end: bytes) -> bytes:
    """Close what ends with a comma, if there is anything; in one go, since a part may have megabytes."""
    parts[max(1, len(parts) - 1) :] = [end]
    return b"".join(parts)


def put(members: tuple[Member, ...], member: Member) -> tuple[Member, ...]:
    """Return the members with ``member`` in the place of its namesake, or at the end if it has none."""
    name = member.name
    if name in [own.name for own in members]:
        return tuple([member if own.name == name else own for own in members])
    return (*members, member)


@value_object
class Message:
    """One message: its role, and the JSON text of the whole object."""

    role: str
    raw: bytes

    def __repr__(self) -> str:
        return f"<Message role={self.role} bytes={len(self.raw)}>"


@value_object
class UserMessage:
    """The first message with the role of user: its index, and a function that splits it into its members."""

    index: int
    take_apart: Callable[[], tuple[Member, ...]]


@value_object
class ChatRequest:
    """A valid chat completion request; its repr holds no text.

    ``body`` is what the client sent, until something is changed in it. ``members`` are its top-level members in their
    order, duplicates of what IBEX does not understand included. ``raw_messages`` is the JSON text of ``messages`` as
    the client wrote it, whatever is injected later. ``stream_options`` is empty where the client gave none.
    """

    model: str
    stream: bool
    body: bytes
    members: tuple[Member, ...]
    messages: tuple[Message, ...]
    raw_messages: bytes
    first_user: UserMessage | None = None
    stream_options: tuple[Member, ...] = ()

    def __repr__(self) -> str:
        return f"<ChatRequest messages={len(self.messages)} stream={self.stream} bytes={len(self.body)}>"

    @property
    def wants_usage(self) -> bool:
        """Whether the client itself asked for usage on its stream."""
        return any(m.name == INCLUDE_USAGE and m.raw == b"true" for m in self.stream_options)

    def messages_hash(self) -> str:
        """Return the SHA-256, in hex, of ``messages`` as the client wrote it."""
        return hashlib.sha256(self.raw_messages).hexdigest()

    def with_messages(self, messages: tuple[Message, ...]) -> ChatRequest:
        """Return this request with other messages; every other member keeps its place and its bytes."""
        raw = encode_array([message.raw for message in messages])
        return self._with_member(Member(MESSAGES, raw), messages, self.stream_options)

    def asking_for_usage(self) -> ChatRequest:
        """Return this request with ``stream_options.include_usage`` set, or itself if that changes nothing."""
        if not self.stream or self.wants_usage:
            return self
        options = put(self.stream_options, Member(INCLUDE_USAGE, b"true"))
        return self._with_member(Member(STREAM_OPTIONS, encode_object(options)), self.messages, options)

    def _with_member(
        self, member: Member, messages: tuple[Message, ...], stream_options: tuple[Member, ...]
    ) -> ChatRequest:
        members = put(self.members, member)
        return ChatRequest(
            self.model,
            self.stream,
            encode_object(members),
            members,
            messages,
            self.raw_messages,
            self.first_user,
            stream_options,
        )


@value_object
class Usage:
    """Tokens, as the provider counted them; None where it did not say."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
