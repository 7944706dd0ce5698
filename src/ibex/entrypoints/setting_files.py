"""Settings that are given as files: ``X_FILE`` names a file with the value of ``X`` (ADR 0061)."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any, Final

from ibex.entrypoints.setting_values import InvalidValueError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ibex.entrypoints.setting_values import Variable

SUFFIX: Final = "_FILE"
MAX_BYTES: Final = 1 << 20
_WITHOUT_FILE: Final = frozenset({"IBEX_ENV"})
"""IBEX_ENV decides whether ``.env`` is read, before any file is."""


class SettingFileError(ValueError):
    """A file of a setting cannot be used. The message names the variable and the path, and no part of the content."""


def file_variable(name: str) -> str | None:
    """Return the variable that names the file of a setting; None if the setting cannot be given as a file."""
    return None if name.endswith(SUFFIX) or name in _WITHOUT_FILE else name + SUFFIX


def is_set(environ: Mapping[str, str], name: str) -> bool:
    """Return whether a setting has a value, or a file."""
    return any(environ.get(one, "").strip() for one in (name, name + SUFFIX))


def layered(*layers: Mapping[str, str]) -> dict[str, str]:
    """Merge environments; later ones take precedence. A variable in one replaces its file in an earlier one.

    The reverse holds too: a file replaces a value.
    """
    merged: dict[str, str] = {}
    for layer in layers:
        for name, value in layer.items():
            other = name.removesuffix(SUFFIX) if name.endswith(SUFFIX) else name + SUFFIX
            if value.strip() and not layer.get(other, "").strip():
                merged.pop(other, None)
            merged[name] = value
    return merged


def raw_value(environ: Mapping[str, str], variable: Variable) -> tuple[str, str | None]:
    """Return a setting's text, and the path of its file or None. The text is empty if neither is set.

    Raises ``SettingFileError`` if both are set, or if the file cannot be used.
    """
    value = environ.get(variable.name, "").strip()
    named_by = file_variable(variable.name)
    path = environ.get(named_by, "").strip() if named_by is not None else ""
    if named_by is None or not path:
        return value, None
    if value:
        raise SettingFileError(f"{variable.name} and {named_by} are both set. Set only one of them.")
    return read_text(named_by, path), path


def read_text(named_by: str, path: str) -> str:
    """Return the content of a variable's file, without whitespace at both ends. Blocks.

    Raises ``SettingFileError``.
    """
    try:
        content = read_regular_file(path)
    except OSError as error:
        raise SettingFileError(f"{named_by} is {path!r}, which cannot be read ({error.strerror}).") from None
    try:
        text = content.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise SettingFileError(f"{named_by} is {path!r}, which is not valid UTF-8.") from None
    if not text:
        raise SettingFileError(f"{named_by} is {path!r}, which is empty.")
    return text


def read_regular_file(path: str) -> bytes:
    """Return the content of a file. Raises ``OSError``, also if it is not a regular file or larger than 1 MiB.

    Opening a pipe, which could block for ever, does not block.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "not a regular file")
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise OSError(0, "larger than 1 MiB")
    return content


def parsed(variable: Variable, raw: str, path: str | None) -> Any:
    """Return the value of a setting.

    Raises ``ValueError`` with a message that names the variable, its value or its file, and what is allowed. It shows
    no secret, and no content of a file.
    """
    try:
        return variable.parse(raw)
    except (ValueError, KeyError) as wrong:
        reason = f"; {wrong}" if isinstance(wrong, InvalidValueError) else ""
        name, shown = variable.name, "(a secret, not shown)" if variable.is_secret else repr(raw)
        if path is not None:
            name, shown = f"{variable.name}{SUFFIX}", f"{path!r}, whose content is not valid"
        raise ValueError(f"{name} is {shown}{reason}; allowed: {variable.allowed}.") from None
