"""A request of the Responses API. IBEX parses the fields that it uses and keeps the client's bytes of all others."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Final

from ibex.adapters.openai_api.body_parser import NULL
from ibex.adapters.openai_api.plain_response import PlainResponseReader
from ibex.adapters.openai_api.raw_json import Member, encode_object, put
from ibex.adapters.openai_api.responses_response import ResponsesReader
from ibex.domain.directives.model import InjectionMode
from ibex.domain.proxying.operation import ResponseReference
from ibex.domain.value_object import value_object

if TYPE_CHECKING:
    from ibex.domain.directives.model import Directive
    from ibex.domain.proxying.operation import ResponseReader
    from ibex.domain.proxying.provider import Dialect

INSTRUCTIONS: Final = "instructions"
_EMPTY: Final = b'""'
_BLANK_LINE: Final = rb"\n\n"
_NO_INPUT_HASH: Final = hashlib.sha256(b"").hexdigest()


@value_object
class ResponsesRequest:
    """A valid request that creates a response or, with ``only_counts``, counts its tokens. The repr shows no content.

    ``raw_input`` and ``raw_instructions`` are JSON text as the client wrote it. If the client sent none, ``raw_input``
    is empty and ``raw_instructions`` is None. ``is_changed`` is whether ``instructions`` contain a directive.
    """

    model: str
    is_streaming: bool
    body: bytes
    path: str
    members: tuple[Member, ...]
    raw_input: bytes
    raw_instructions: bytes | None = None
    previous_response_id: str | None = None
    only_counts: bool = False
    is_changed: bool = False

    def __repr__(self) -> str:
        return f"<ResponsesRequest {self.path} streaming={self.is_streaming} bytes={len(self.body)}>"

    @property
    def reference(self) -> ResponseReference | None:
        """The response that the request continues; None if it continues none."""
        previous = self.previous_response_id
        return None if previous is None else ResponseReference(previous, continues=True)

    def content_hash(self) -> str:
        """Return the SHA-256, in hex, of ``input`` as the client wrote it."""
        return hashlib.sha256(self.raw_input).hexdigest()

    def with_directive(self, directive: Directive, dialect: Dialect) -> ResponsesRequest:  # noqa: ARG002 - one member
        """Return the request with the directive in ``instructions``.

        The directive precedes the client's own instructions, or follows them for ``system_append``, separated by a
        blank line. ``instructions`` apply to one request, so a directive never accumulates in stored responses.
        """
        text, own = _encoded(directive.text), self.raw_instructions
        if own is None or own in (NULL, _EMPTY):
            raw = b'"%b"' % text
        elif directive.mode is InjectionMode.SYSTEM_APPEND:
            raw = b'%b%b%b"' % (own[:-1], _BLANK_LINE, text)
        else:
            raw = b'"%b%b%b' % (text, _BLANK_LINE, own[1:])
        members = put(self.members, Member(INSTRUCTIONS, raw))
        return ResponsesRequest(
            self.model,
            self.is_streaming,
            encode_object(members),
            self.path,
            members,
            self.raw_input,
            self.raw_instructions,
            self.previous_response_id,
            self.only_counts,
            is_changed=True,
        )

    def with_directive_hidden(self, directive: Directive | None) -> ResponsesRequest:  # noqa: ARG002 - the request reads no response
        """Return the request itself."""
        return self

    def asking_for_usage(self) -> ResponsesRequest:
        """Return the request itself: the API reports usage without being asked."""
        return self

    def response_reader(self, dialect: Dialect) -> ResponseReader:  # noqa: ARG002 - the same in every dialect
        """Return the reader of the response, which restores the client's own instructions."""
        if self.only_counts:
            return PlainResponseReader()
        if not self.is_changed:
            return ResponsesReader()
        own = NULL if self.raw_instructions is None else self.raw_instructions
        return ResponsesReader(partial(_restored, own))


@value_object
class StoredResponseRequest:
    """A request that reads or changes a stored response.

    ``returns_response`` is whether the provider returns the response itself. If ``hides`` is true, the reader removes
    the directive ``hidden`` from its instructions; if that is None, it hides all instructions.
    """

    response_id: str
    path: str
    is_streaming: bool
    returns_response: bool
    hides: bool = False
    hidden: Directive | None = None
    model: str | None = None
    body: bytes = b""

    def __repr__(self) -> str:
        return f"<StoredResponseRequest streaming={self.is_streaming}>"

    @property
    def reference(self) -> ResponseReference:
        """The response that the request names."""
        return ResponseReference(self.response_id, continues=False)

    def content_hash(self) -> str:
        """Return the SHA-256, in hex, of the empty string, because the request has no input."""
        return _NO_INPUT_HASH

    def with_directive(self, directive: Directive, dialect: Dialect) -> StoredResponseRequest:  # noqa: ARG002 - nothing is generated
        """Return the request itself."""
        return self

    def with_directive_hidden(self, directive: Directive | None) -> StoredResponseRequest:
        """Return a request whose reader removes the directive from the response's instructions."""
        return StoredResponseRequest(
            self.response_id, self.path, self.is_streaming, self.returns_response, hides=True, hidden=directive
        )

    def asking_for_usage(self) -> StoredResponseRequest:
        """Return the request itself."""
        return self

    def response_reader(self, dialect: Dialect) -> ResponseReader:  # noqa: ARG002 - the same in every dialect
        """Return the reader of the provider's response."""
        if not self.returns_response:
            return PlainResponseReader()
        return ResponsesReader(partial(_without, self.hidden) if self.hides else None, is_turn=False)


def _restored(own: bytes, value: bytes | None) -> bytes:
    """Return the client's own instructions in place of the provider's copy. A null stays null."""
    return NULL if value == NULL else own


def _without(directive: Directive | None, value: bytes | None) -> bytes:
    """Return the instructions without the directive, or null if the client's part cannot be determined."""
    if value is None or directive is None:
        return NULL
    try:
        text = json.loads(value)
    except ValueError:
        return NULL
    if not isinstance(text, str):
        return NULL
    if directive.mode is InjectionMode.SYSTEM_APPEND:
        own = text.removesuffix(f"\n\n{directive.text}")
    else:
        own = text.removeprefix(f"{directive.text}\n\n")
    return NULL if own == text else json.dumps(own, ensure_ascii=False).encode("utf-8", "surrogatepass")


@lru_cache(maxsize=256)  # of at most 32 KiB each; encoding one takes as long as the rest of the injection
def _encoded(text: str) -> bytes:
    """Return the text as JSON, without the quotes."""
    return json.dumps(text, ensure_ascii=False).encode()[1:-1]
