"""The list of models in OpenAI's format."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ibex.domain.proxying.provider import MAX_MODELS, ProviderModel

MAX_LIST_BYTES: Final = 4 * 1024 * 1024
"""The maximum size of a list. Routers over many providers describe each of their hundreds of models at length."""
_MAX_COMMAS: Final = 200_000
"""A list of this size takes 15 ms to read; 4 MiB of commas would block the event loop for 130 ms."""


class _ModelList(msgspec.Struct):
    data: list[msgspec.Raw]


class _Model(msgspec.Struct):
    id: str
    created: Any = None
    owned_by: Any = None


_list_decoder = msgspec.json.Decoder(_ModelList | list[msgspec.Raw])
_model_decoder = msgspec.json.Decoder(_Model)


def parse_model_list(body: bytes) -> list[ProviderModel]:
    """Return the models in the body of a response, at most ``MAX_MODELS``.

    Compatible servers also send the array by itself, and leave out ``created`` and ``owned_by``. Entries without an id
    are skipped. Raises ``ValueError`` if the body is not a list of models, or if no entry has an id.
    """
    if body.count(b",") > _MAX_COMMAS:
        raise ValueError("not a list of models")
    try:
        content = _list_decoder.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        raise ValueError("not a list of models") from None
    entries = content if isinstance(content, list) else content.data
    models = [model for entry in entries[:MAX_MODELS] if (model := _model(entry)) is not None]
    if entries and not models:
        raise ValueError("a list without names")
    return models


def _model(entry: msgspec.Raw) -> ProviderModel | None:
    try:
        model = _model_decoder.decode(entry)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
    return ProviderModel(model.id, _whole(model.created), model.owned_by if isinstance(model.owned_by, str) else None)


def _whole(value: object) -> int | None:
    """Return a whole number, which some servers write as a float; None for anything else."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
