"""The operation for embeddings: ``POST /v1/embeddings``."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

from ibex.adapters.openai_api.body_parser import MAX_MODEL_CHARACTERS, NULL, FieldParser, run_in_steps, split_body
from ibex.adapters.openai_api.plain_response import PlainResponseReader
from ibex.domain.errors import ValidationError
from ibex.domain.identity.permissions import CHAT
from ibex.domain.value_object import value_object

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from ibex.domain.directives.model import Directive
    from ibex.domain.proxying.operation import Target
    from ibex.domain.proxying.provider import Dialect

_PATH: Final = "embeddings"
_INPUT: Final = "input"
_UNDERSTOOD: Final = frozenset({"model"})
_SCHEMAS: Final[Mapping[str, Mapping[str, Any]]] = {
    "request": {
        "type": "object",
        "required": ["model"],
        "description": "OpenAI's request for embeddings. Unlisted members are passed to the provider unchanged.",
        "additionalProperties": True,
        "properties": {"model": {"type": "string", "minLength": 1, "maxLength": MAX_MODEL_CHARACTERS}},
    },
    "response": {"type": "object", "description": "The provider's response, byte for byte."},
}


@value_object
class EmbeddingsRequest:
    """A valid request for embeddings, an ``OperationRequest``. Its repr shows no content."""

    model: str
    body: bytes
    raw_input: bytes
    path: str = _PATH
    is_streaming: bool = False
    reference: None = None

    def __repr__(self) -> str:
        return f"<EmbeddingsRequest bytes={len(self.body)}>"

    def content_hash(self) -> str:
        """Return the SHA-256, in hex, of ``input`` as the client wrote it."""
        return hashlib.sha256(self.raw_input).hexdigest()

    def with_directive(self, directive: Directive, dialect: Dialect) -> EmbeddingsRequest:  # noqa: ARG002 - nothing is generated
        """Return the request itself."""
        return self

    def with_directive_hidden(self, directive: Directive | None) -> EmbeddingsRequest:  # noqa: ARG002 - the request reads no response
        """Return the request itself."""
        return self

    def asking_for_usage(self) -> EmbeddingsRequest:
        """Return the request itself: the API reports usage without being asked."""
        return self

    def response_reader(self, dialect: Dialect) -> PlainResponseReader:  # noqa: ARG002 - the same in every dialect
        """Return the reader of the response."""
        return PlainResponseReader()


class Embeddings:
    """The ``Operation`` of embeddings. It takes no directive, belongs to no session, and leaves only a trace."""

    name: Final = "embeddings"
    method: Final = "POST"
    path: Final = _PATH
    permission: Final = CHAT
    takes_directive: Final = False
    makes_turn: Final = False
    session_header: Final = None
    summary: Final = "Create embeddings."
    schemas: Final = _SCHEMAS

    async def parse(self, body: bytes, target: Target) -> EmbeddingsRequest:  # noqa: ARG002 - all is in the body
        """Parse the body of a request; see ``Operation``."""
        return await run_in_steps(_embeddings_request_steps(body))


def _embeddings_request_steps(body: bytes) -> Generator[None, None, EmbeddingsRequest]:
    members = yield from split_body(body)
    parser = FieldParser()
    fields = parser.understood(members, _UNDERSTOOD, "")
    model = parser.model(fields.get("model", NULL))
    if parser.errors:
        raise ValidationError(tuple(parser.errors))
    raw_input = next((member.raw for member in members if member.name == _INPUT), b"")
    return EmbeddingsRequest(model, body, raw_input)
