"""The parts of a response that all operations have in common: usage, and names that are safe to store."""

from __future__ import annotations

import json
from typing import Any, Final

from ibex.domain.record.summary import Usage

_JSON_SPACE: Final = " \t\n\r"
_raw_decode = json.JSONDecoder().raw_decode
_LONGEST_NAME: Final = 256


def json_object(text: bytes) -> dict[str, Any] | None:
    """Return the object that a JSON text encodes; None if the text is not a JSON object."""
    try:
        if not text.startswith(b'{"'):
            value = json.loads(text)
        else:  # this start proves UTF-8, so skip the detection of JSON's older encodings
            decoded = text.decode("utf-8", "surrogatepass")
            value, end = _raw_decode(decoded)
            if end != len(decoded) and decoded[end:].strip(_JSON_SPACE):
                return None
    except (ValueError, RecursionError):
        return None
    return value if type(value) is dict else None


def stored_name(text: str) -> str:
    """Return a name in a form that every database accepts: short, without NUL or lone surrogates."""
    return text[:_LONGEST_NAME].encode("utf-8", "replace").decode().replace("\x00", "\ufffd")


def usage_of(usage: dict[str, Any]) -> Usage:
    """Return the token counts, None for each that is missing. Compatible servers use other names for some of them."""
    cached = _count(usage.get("prompt_tokens_details") or usage.get("input_tokens_details"), "cached_tokens")
    return Usage(
        input_tokens=_count(usage, "prompt_tokens", "input_tokens"),
        output_tokens=_count(usage, "completion_tokens", "output_tokens"),
        total_tokens=_count(usage, "total_tokens"),
        cached_tokens=_count(usage, "prompt_cache_hit_tokens") if cached is None else cached,
        reasoning_tokens=_count(
            usage.get("completion_tokens_details") or usage.get("output_tokens_details"), "reasoning_tokens"
        ),
    )


def _count(holder: object, *names: str) -> int | None:
    """Return the count under the first name whose value is not null, or None if it is missing or not a valid count."""
    if type(holder) is not dict:
        return None
    value = next((holder[name] for name in names if holder.get(name) is not None), None)
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value < 1 << 31 else None
