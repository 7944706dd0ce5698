"""The operation for chat completions: ``POST /v1/chat/completions``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ibex.adapters.openai_api.chat_parser import parse_in_steps
from ibex.adapters.openai_api.chat_schemas import SCHEMAS
from ibex.domain.identity.permissions import CHAT

if TYPE_CHECKING:
    from ibex.adapters.openai_api.chat_request import ChatRequest


class ChatCompletions:
    """The ``Operation`` of chat completions."""

    name: Final = "chat.completions"
    path: Final = "chat/completions"
    permission: Final = CHAT
    takes_directive: Final = True
    makes_turn: Final = True
    summary: Final = "Complete a chat."
    schemas: Final = SCHEMAS

    async def parse(self, body: bytes) -> ChatRequest:
        """Parse the body of a request; see ``Operation``."""
        return await parse_in_steps(body)

    def error_event(self, envelope: bytes) -> bytes:
        """Return the error as an event; see ``Operation``."""
        return b"data: " + envelope + b"\n\n"
