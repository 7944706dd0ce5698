"""The operations that the proxy serves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ibex.adapters.openai_api import operations

if TYPE_CHECKING:
    from ibex.adapters.http_server.openapi import DocumentedOperation

OPERATIONS: Final[tuple[DocumentedOperation, ...]] = operations.OPERATIONS
