"""The summary of a response on record: the model, the usage, the reason for its end, and a hash of its text."""

from __future__ import annotations

from dataclasses import field

from ibex.domain.value_object import value_object


@value_object
class Usage:
    """The token counts that the provider reported; None for those that it did not report."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


@value_object
class ResponseSummary:
    """The summary of a response. A field is None if the provider did not report it in a form that IBEX can read.

    ``response_id`` is the provider's id of a response that later requests can name; None for other operations.
    """

    model: str | None = None
    usage: Usage = field(default_factory=Usage)
    finish_reason: str | None = None
    completion_hash: str | None = None
    response_id: str | None = None
