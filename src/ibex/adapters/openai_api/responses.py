"""The operations of the Responses API: ``POST /v1/responses`` and the requests for stored responses (ADR 0050)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

from ibex.adapters.openai_api.body_parser import run_in_steps, wrong
from ibex.adapters.openai_api.responses_parser import MAX_ID_CHARACTERS, responses_request_steps
from ibex.adapters.openai_api.responses_request import StoredResponseRequest
from ibex.adapters.openai_api.responses_schemas import (
    CANCEL_SCHEMAS,
    SCHEMAS,
    STORED_SCHEMAS,
    TOKEN_COUNT_SCHEMAS,
    UNCHANGED_SCHEMAS,
)
from ibex.domain.errors import FieldCode, ResponseNotFoundError
from ibex.domain.identity.permissions import CHAT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ibex.adapters.openai_api.responses_request import ResponsesRequest
    from ibex.domain.proxying.operation import Target

_SHOWN_CHARACTERS: Final = 64
_QUERY: Final = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@%/?\[\]-]{0,2048}")


class Responses:
    """The ``Operation`` that creates a response."""

    name: Final = "responses"
    method: Final = "POST"
    path: Final = "responses"
    permission: Final = CHAT
    takes_directive: Final = True
    makes_turn: Final = True
    session_header: Final = b"session-id"  # from Codex
    summary: Final = "Create a response."
    schemas: Final = SCHEMAS

    async def parse(self, body: bytes, target: Target) -> ResponsesRequest:  # noqa: ARG002 - all is in the body
        """Parse the body of a request; see ``Operation``."""
        return await run_in_steps(responses_request_steps(body, self.path))


class InputTokens:
    """The ``Operation`` that counts the input tokens of a request, including those of the directive."""

    name: Final = "responses.input_tokens"
    method: Final = "POST"
    path: Final = "responses/input_tokens"
    permission: Final = CHAT
    takes_directive: Final = True
    makes_turn: Final = False
    session_header: Final = None
    summary: Final = "Count the input tokens of a request."
    schemas: Final = TOKEN_COUNT_SCHEMAS

    async def parse(self, body: bytes, target: Target) -> ResponsesRequest:  # noqa: ARG002 - all is in the body
        """Parse the body of a request; see ``Operation``."""
        return await run_in_steps(responses_request_steps(body, self.path, only_counts=True))


class StoredResponseOperation:
    """An ``Operation`` on a stored response. It has no body, and makes no turn."""

    permission: Final = CHAT
    takes_directive: Final = False
    makes_turn: Final = False
    session_header: Final = None

    def __init__(
        self,
        name: str,
        method: str,
        path: str,
        *,
        summary: str,
        schemas: Mapping[str, Mapping[str, Any]],
        returns_response: bool = False,
        may_stream: bool = False,
    ) -> None:
        """Set whether the provider returns the response itself, and whether a query can request it as a stream."""
        self.name = name
        self.method = method
        self.path = path
        self.summary = summary
        self.schemas = schemas
        self._returns_response = returns_response
        self._may_stream = may_stream

    async def parse(self, body: bytes, target: Target) -> StoredResponseRequest:  # noqa: ARG002 - there is no body
        """Return the request for the response whose id is in the path; see ``Operation``."""
        if not _QUERY.fullmatch(target.query):
            raise wrong("query", FieldCode.INVALID_FORMAT, "must be a query of at most 2,048 characters (RFC 3986)")
        response_id = target.id or ""
        if len(response_id) > MAX_ID_CHARACTERS:
            raise ResponseNotFoundError(f"{response_id[:_SHOWN_CHARACTERS]}...")
        path = self.path.replace("{id}", response_id)
        streams = self._may_stream and parse_qs(target.query).get("stream") == ["true"]
        return StoredResponseRequest(
            response_id, f"{path}?{target.query}" if target.query else path, streams, self._returns_response
        )


RESPONSES_OPERATIONS: Final = (
    Responses(),
    InputTokens(),
    StoredResponseOperation(
        "responses.retrieve",
        "GET",
        "responses/{id}",
        summary="Return a stored response.",
        schemas=STORED_SCHEMAS,
        returns_response=True,
        may_stream=True,
    ),
    StoredResponseOperation(
        "responses.delete", "DELETE", "responses/{id}", summary="Delete a stored response.", schemas=UNCHANGED_SCHEMAS
    ),
    StoredResponseOperation(
        "responses.cancel",
        "POST",
        "responses/{id}/cancel",
        summary="Cancel a response.",
        schemas=CANCEL_SCHEMAS,
        returns_response=True,
    ),
    StoredResponseOperation(
        "responses.input_items",
        "GET",
        "responses/{id}/input_items",
        summary="List the input items of a stored response.",
        schemas=UNCHANGED_SCHEMAS,
    ),
)
