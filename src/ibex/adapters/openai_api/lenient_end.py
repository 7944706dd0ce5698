"""The lenient end of a stream: an end without a finish reason and without ``[DONE]`` (ADR 0055)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Final

MAX_ARGUMENTS_BYTES: Final = 1 << 20
MAX_TOOL_CALLS: Final = 1_024
_WITHOUT_DATA: Final = re.compile(rb"(?:(?!data)[^\r\n]*+(?:\r\n|\r|\n))*+")
"""Complete lines that are not data lines."""


class LenientEnd:
    """Decides whether a stream has delivered text or complete tool calls.

    It keeps the arguments of the tool calls of one stream: at most ``MAX_ARGUMENTS_BYTES`` and ``MAX_TOOL_CALLS``.
    Beyond either limit, or if a part of the stream cannot be read, the stream counts as incomplete.
    """

    def __init__(self) -> None:
        self._calls: list[_ToolCall] = []
        self._latest: dict[tuple[int, int | None], _ToolCall] = {}
        self._size = 0
        self._is_unknown = False

    def is_reached(self, *, has_text: bool) -> bool:
        """Return whether the stream may end here: there is text or a tool call, and all arguments are complete."""
        if self._is_unknown or not (has_text or self._calls):
            return False
        return all(_is_json(call.arguments) for call in self._calls)

    def read_delta(self, choice: int, delta: dict[str, Any]) -> None:
        """Read the tool calls in a delta of a choice, and a call in the older form, ``function_call``."""
        calls = delta.get("tool_calls")
        for call in calls if type(calls) is list else ():
            if type(call) is dict:
                index = call.get("index")
                self._read_call((choice, index if type(index) is int else None), call.get("id"), call.get("function"))
        function = delta.get("function_call")
        if function is not None:
            self._read_call((choice, None), None, function)

    def read_without_data(self, raw: bytes) -> None:
        """Read an event without data: a comment, or a part of an event that is too large or incomplete."""
        if _WITHOUT_DATA.fullmatch(raw) is None:
            self._give_up()

    def _read_call(self, key: tuple[int, int | None], call_id: object, function: object) -> None:
        if self._is_unknown:
            return
        call = self._latest.get(key)
        if call is None or call.has_other_id(call_id):  # some servers give every call the same index
            if len(self._calls) == MAX_TOOL_CALLS:
                self._give_up()
                return
            call = self._latest[key] = _ToolCall()
            self._calls.append(call)
        if type(call_id) is str and call_id:
            call.id = call_id
        arguments = function.get("arguments") if type(function) is dict else None
        if type(arguments) is str:
            encoded = arguments.encode("utf-8", "surrogatepass")
            self._size += len(encoded)
            call.arguments += encoded
            if self._size > MAX_ARGUMENTS_BYTES:
                self._give_up()

    def _give_up(self) -> None:
        self._is_unknown = True
        self._calls.clear()
        self._latest.clear()


@dataclass(slots=True)
class _ToolCall:
    id: str | None = None
    arguments: bytearray = field(default_factory=bytearray)

    def has_other_id(self, call_id: object) -> bool:
        return self.id is not None and type(call_id) is str and call_id not in {"", self.id}


def _is_json(text: bytearray) -> bool:
    try:
        json.loads(text.decode("utf-8", "surrogatepass"), parse_int=float)  # int() refuses numbers of many digits
    except (ValueError, RecursionError):
        return False
    return True
