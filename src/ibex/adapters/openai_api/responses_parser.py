"""A parser for requests of the Responses API. It reports all invalid fields at once (ADR 0043).

The provider validates everything that the proxy does not use, such as the types of items and tools.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from ibex.adapters.openai_api.body_parser import BYTES_PER_STEP, NULL, FieldParser, split_body, text_of
from ibex.adapters.openai_api.raw_json import MAX_ELEMENTS, TooManyError, WrongTypeError, split_array
from ibex.adapters.openai_api.responses_request import INSTRUCTIONS, ResponsesRequest
from ibex.domain.errors import FieldCode, ValidationError

if TYPE_CHECKING:
    from collections.abc import Generator

MAX_INPUT_ITEMS: Final = MAX_ELEMENTS
MAX_ID_CHARACTERS: Final = 256
_INPUT: Final = "input"
_PREVIOUS: Final = "previous_response_id"
_BACKGROUND: Final = "background"
_REQUEST_ID: Final = "request_id"
_UNDERSTOOD: Final = frozenset({"model", "stream", _INPUT, INSTRUCTIONS, _PREVIOUS, _BACKGROUND, _REQUEST_ID})


class _Item(msgspec.Struct):
    """The members of an input item that the proxy reads, None if the item lacks them."""

    type: str | None = None
    role: str | None = None


_item_decoder = msgspec.json.Decoder(_Item)


def responses_request_steps(
    body: bytes, path: str, *, only_counts: bool = False
) -> Generator[None, None, ResponsesRequest]:
    """Parse a request in steps; no step takes longer than one pass over the body. ``path`` is that of the operation."""
    members = yield from split_body(body)
    parser = _ResponsesFieldParser()
    fields = parser.understood(members, _UNDERSTOOD, "")
    model = parser.model(fields.get("model", NULL))
    yield from parser.input(fields.get(_INPUT, NULL))
    instructions = parser.instructions(fields.get(INSTRUCTIONS))
    previous = parser.previous_response_id(fields.get(_PREVIOUS, NULL))
    stream = parser.boolean("stream", fields.get("stream", NULL))
    if parser.boolean(_BACKGROUND, fields.get(_BACKGROUND, NULL)):
        parser.refuse(_BACKGROUND, FieldCode.INVALID_ENUM, "must be false: IBEX does not support background responses")
    if fields.get(_REQUEST_ID, NULL) != NULL:
        parser.refuse(_REQUEST_ID, FieldCode.INVALID_FORMAT, "must be absent: a client must not choose a response's id")
    if parser.errors:
        raise ValidationError(tuple(parser.errors))
    return ResponsesRequest(
        model=model,
        is_streaming=stream and not only_counts,
        body=body,
        path=path,
        members=members,
        raw_input=fields.get(_INPUT, b""),
        raw_instructions=instructions,
        previous_response_id=previous,
        only_counts=only_counts,
    )


class _ResponsesFieldParser(FieldParser):
    """A parser for the fields of the Responses API."""

    def input(self, raw: bytes) -> Generator[None, None, None]:
        """Check that the input is a string or an array of items. It may be absent, as with a stored prompt."""
        if raw == NULL or raw.startswith(b'"'):
            return
        try:
            items = split_array(raw)
        except WrongTypeError:
            self.refuse(_INPUT, FieldCode.INVALID_FORMAT, "must be a string or an array of objects")
            return
        except TooManyError:
            self.refuse(_INPUT, FieldCode.TOO_MANY, f"must have at most {MAX_INPUT_ITEMS} elements")
            return
        done_bytes = len(raw)
        for index, item in enumerate(items):
            done_bytes += len(item)
            if done_bytes > BYTES_PER_STEP:
                yield
                done_bytes = 0
            self._item(index, item)

    def _item(self, index: int, raw: bytes) -> None:
        try:
            item = _item_decoder.decode(raw)
        except msgspec.ValidationError:
            what = "must be an object whose type and role, if present, are strings"
            self.refuse(f"{_INPUT}[{index}]", FieldCode.INVALID_FORMAT, what)
            return
        if item.type is None and item.role is None:
            self.refuse(f"{_INPUT}[{index}]", FieldCode.REQUIRED, "must have a type or a role")

    def instructions(self, raw: bytes | None) -> bytes | None:
        """Return the client's instructions as it wrote them: a string or null; None if they are absent."""
        if raw is not None and raw != NULL and not raw.startswith(b'"'):
            self.refuse(INSTRUCTIONS, FieldCode.INVALID_FORMAT, "must be a string")
        return raw

    def previous_response_id(self, raw: bytes) -> str | None:
        """Return the id of the response that the request continues; None if it continues none."""
        if raw == NULL:
            return None
        found = text_of(raw) if len(raw) <= 6 * MAX_ID_CHARACTERS else None
        if found is None or not 0 < len(found) <= MAX_ID_CHARACTERS or not (found.isascii() and found.isprintable()):
            allowed = f"must be a string of 1 to {MAX_ID_CHARACTERS} printable ASCII characters"
            self.refuse(_PREVIOUS, FieldCode.INVALID_FORMAT, allowed)
        return found
