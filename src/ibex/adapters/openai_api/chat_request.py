"""A chat completion request. IBEX parses the fields that it uses and keeps the client's bytes of all others."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, ClassVar, Final

from ibex.adapters.openai_api.chat_injection import inject_directive
from ibex.adapters.openai_api.chat_response import ChatResponseReader
from ibex.adapters.openai_api.raw_json import (
    Member,
    ObjectSplitter,
    TooManyError,
    WrongTypeError,
    encode_array,
    encode_object,
    put,
)
from ibex.domain.value_object import value_object

if TYPE_CHECKING:
    from ibex.adapters.openai_api.chat_injection import Message, UserMessage
    from ibex.domain.directives.model import Directive
    from ibex.domain.proxying.provider import Dialect

PATH: Final = "chat/completions"
MESSAGES: Final = "messages"
STREAM_OPTIONS: Final = "stream_options"
INCLUDE_USAGE: Final = "include_usage"
_CONTINUOUS_USAGE: Final = "continuous_usage_stats"
_USAGE: Final = "usage"
_MAX_USAGE_BYTES: Final = 64 << 10
_TRUE: Final = b"true"
_SPLITTER: Final = ObjectSplitter()


@value_object
class ChatRequest:
    """A valid chat completion request, an ``OperationRequest``. Its repr shows no content.

    ``body`` is what the client sent, until a member is changed. ``members`` are its top-level members in their order,
    including duplicates of members that IBEX does not parse. ``raw_messages`` is the JSON text of ``messages`` as the
    client wrote it, before any injection. ``stream_options`` is empty if the client gave none. ``hides_usage`` is true
    if the proxy, and not the client, asked for usage on the stream.
    """

    model: str
    is_streaming: bool
    body: bytes
    members: tuple[Member, ...]
    messages: tuple[Message, ...]
    raw_messages: bytes
    first_user: UserMessage | None = None
    stream_options: tuple[Member, ...] = ()
    hides_usage: bool = False
    path: ClassVar[str] = PATH
    reference: ClassVar[None] = None

    def __repr__(self) -> str:
        return f"<ChatRequest messages={len(self.messages)} streaming={self.is_streaming} bytes={len(self.body)}>"

    @property
    def wants_usage(self) -> bool:
        """Whether the request asks for usage in its stream with OpenAI's option."""
        return any(m.name == INCLUDE_USAGE and m.raw == _TRUE for m in self.stream_options)

    def content_hash(self) -> str:
        """Return the SHA-256, in hex, of ``messages`` as the client wrote it."""
        return hashlib.sha256(self.raw_messages).hexdigest()

    def with_directive(self, directive: Directive, dialect: Dialect) -> ChatRequest:
        """Return the request with the directive among its messages; see ``inject_directive``."""
        merges = dialect.merges_instructions
        return self.with_messages(inject_directive(self.messages, self.first_user, directive, merges=merges))

    def with_directive_hidden(self, directive: Directive | None) -> ChatRequest:  # noqa: ARG002 - the response repeats no directive
        """Return the request itself."""
        return self

    def with_messages(self, messages: tuple[Message, ...]) -> ChatRequest:
        """Return the request with other messages. Every other member keeps its place and its bytes."""
        raw = encode_array([message.raw for message in messages])
        return self._with_member(Member(MESSAGES, raw), messages, self.stream_options, hides_usage=self.hides_usage)

    def asking_for_usage(self) -> ChatRequest:
        """Return the request with ``stream_options.include_usage`` set.

        Return the request itself if it does not stream or already has the option. The reader of the response hides the
        usage unless the client asked for it in another server's way.
        """
        if not self.is_streaming or self.wants_usage:
            return self
        options = put(self.stream_options, Member(INCLUDE_USAGE, _TRUE))
        member = Member(STREAM_OPTIONS, encode_object(options))
        return self._with_member(member, self.messages, options, hides_usage=not self._wants_usage_otherwise())

    def response_reader(self, dialect: Dialect) -> ChatResponseReader:
        """Return the reader of the response to this request; see ``OperationRequest``."""
        return ChatResponseReader(hides_usage=self.hides_usage, has_lenient_end=dialect.has_lenient_end)

    def _wants_usage_otherwise(self) -> bool:
        """Return whether the client asks for usage as vLLM or OpenRouter define it.

        IBEX does not validate these members, because they are not part of OpenAI's API. If one is repeated, each
        occurrence counts, because the server may read any of them.
        """
        for option in self.stream_options:
            if option.name == _CONTINUOUS_USAGE and option.raw == _TRUE:
                return True
        return any(member.name == _USAGE and _includes(member.raw) for member in self.members)

    def _with_member(
        self,
        member: Member,
        messages: tuple[Message, ...],
        stream_options: tuple[Member, ...],
        *,
        hides_usage: bool,
    ) -> ChatRequest:
        members = put(self.members, member)
        return ChatRequest(
            self.model,
            self.is_streaming,
            encode_object(members),
            members,
            messages,
            self.raw_messages,
            self.first_user,
            stream_options,
            hides_usage,
        )


def _includes(usage: bytes) -> bool:
    """Return whether OpenRouter's ``usage`` says ``"include": true``."""
    if len(usage) > _MAX_USAGE_BYTES:
        return False
    try:
        members = _SPLITTER.split(usage)
    except (WrongTypeError, TooManyError):
        return False
    return any(name == "include" and bytes(raw) == _TRUE for name, raw in members)
