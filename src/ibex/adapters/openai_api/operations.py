"""The operations of OpenAI's API that IBEX serves.

Routes, metrics and the OpenAPI document are derived from this list.
"""

from __future__ import annotations

from typing import Final

from ibex.adapters.openai_api.chat_completions import ChatCompletions
from ibex.adapters.openai_api.embeddings import Embeddings
from ibex.adapters.openai_api.responses import RESPONSES_OPERATIONS

OPERATIONS: Final = (ChatCompletions(), *RESPONSES_OPERATIONS, Embeddings())
OPERATION_NAMES: Final = frozenset(operation.name for operation in OPERATIONS)
