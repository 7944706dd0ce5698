"""The operation for chat completions: ``POST /v1/chat/completions``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ibex.adapters.openai_api.body_parser import run_in_steps
from ibex.adapters.openai_api.chat_parser import chat_request_steps
from ibex.adapters.openai_api.chat_request import PATH
from ibex.adapters.openai_api.chat_schemas import SCHEMAS
from ibex.domain.identity.permissions import CHAT

if TYPE_CHECKING:
    from ibex.adapters.openai_api.chat_request import ChatRequest
    from ibex.domain.proxying.operation import Target


class ChatCompletions:
    """The ``Operation`` of chat completions."""

    name: Final = "chat.completions"
    method: Final = "POST"
    path: Final = PATH
    permission: Final = CHAT
    takes_directive: Final = True
    makes_turn: Final = True
    session_header: Final = None
    summary: Final = "Complete a chat."
    schemas: Final = SCHEMAS

    async def parse(self, body: bytes, target: Target) -> ChatRequest:  # noqa: ARG002 - all is in the body
        """Parse the body of a request; see ``Operation``."""
        return await run_in_steps(chat_request_steps(body))
