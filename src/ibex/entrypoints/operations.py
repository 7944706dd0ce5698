"""The operations that IBEX serves: their routes, metrics and documentation follow from this list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ibex.adapters.openai_api.chat_completions import ChatCompletions

if TYPE_CHECKING:
    from ibex.adapters.http_server.openapi import DocumentedOperation

OPERATIONS: Final[tuple[DocumentedOperation, ...]] = (ChatCompletions(),)
