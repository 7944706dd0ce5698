"""What is recorded of a response: the model, the usage, the reason for its end, and a hash of its text."""

from __future__ import annotations

from dataclasses import field

from ibex.domain.value_object import value_object


@value_object
class Usage:
    """Tokens, as the provider counted them; None if the provider did not say."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


@value_object
class ResponseSummary:
    """What is known of a response; None if the provider did not say, or not in a form that IBEX understands."""

    model: str | None = None
    usage: Usage = field(default_factory=Usage)
    finish_reason: str | None = None
    completion_hash: str | None = None
