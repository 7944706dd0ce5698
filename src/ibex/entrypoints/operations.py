"""The operations that IBEX serves. Routes, metrics and the OpenAPI document are derived from this list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ibex.adapters.openai_api.chat_completions import ChatCompletions

if TYPE_CHECKING:
    from ibex.adapters.http_server.openapi import DocumentedOperation

OPERATIONS: Final[tuple[DocumentedOperation, ...]] = (ChatCompletions(),)
