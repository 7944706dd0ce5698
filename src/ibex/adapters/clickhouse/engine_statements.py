"""Execution of single statements on the ClickHouse engine in this process (chdb), as a server runs requests."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import chdb

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_CODE = re.compile(r"Code: (?P<code>\d+)\.")
_SETTING = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_FORMAT = re.compile(rb"\bFORMAT\s+(?P<name>\w+)\s*;?\s*$", re.IGNORECASE)
_INSERT = re.compile(rb"\s*INSERT\b", re.IGNORECASE)
# An INSERT with rows in a format. The head is everything before FORMAT; quoted names and strings may contain that word.
_INSERT_WITH_ROWS = re.compile(
    rb"""(?P<head>\s*INSERT\b(?:[^`'"]|`[^`]*`|'[^']*'|"[^"]*")*?)\bFORMAT\s+(?P<format>\w+)[ \t\f]*\r?\n""",
    re.IGNORECASE,
)
_TEXT_FORMATS: Final = frozenset({b"jsoneachrow", b"jsoncompacteachrow", b"tabseparated", b"csv", b"values"})
# The bytes that are searched for a FORMAT clause: before the rows of an INSERT, and at the end of other statements.
_HEAD_BYTES: Final = 65_536
_TAIL_BYTES: Final = 100
_PLAIN: Final = "TabSeparated"
UNKNOWN_SETTING: Final = 115
UNKNOWN: Final = 1002
"""ClickHouse's code for an error without a specific code (UNKNOWN_EXCEPTION)."""


class EngineError(Exception):
    """The engine rejected a statement. ``code`` and ``text`` are the engine's."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


@dataclass(frozen=True, slots=True)
class EngineStatement:
    """A statement, followed by the rows of an INSERT, with its settings, query parameters and database."""

    text: bytes
    settings: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    database: str = ""
    default_format: str = ""
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class StatementResult:
    """The result's bytes and format (both empty for a statement without a result), row counts and duration."""

    body: bytes
    format: str
    read_rows: int
    written_rows: int
    elapsed_ns: int


class Engine:
    """The engine on a directory. Only one process can open it at a time; any number of threads can run statements."""

    def __init__(self, path: Path | str) -> None:
        """Start the engine, or use the one that runs in this process. Raises ``EngineError``."""
        self._path = str(path)
        try:
            self._anchor = _connect(self._path)  # the engine runs while a connection is open
        except RuntimeError as error:
            raise _engine_error(error) from None

    def run(self, statement: EngineStatement) -> StatementResult:
        """Run a statement on a new connection, so that its settings and database apply to it only.

        Raises ``EngineError``.
        """
        connection = _connect(self._path)
        try:
            for preparation in _preparations(statement):
                connection.query(preparation, _PLAIN)
            insert = _INSERT_WITH_ROWS.match(statement.text[:_HEAD_BYTES])
            binary = insert is not None and insert["format"].lower() not in _TEXT_FORMATS
            return _insert(connection, insert, statement) if insert and binary else _query(connection, statement)
        except (RuntimeError, chdb.ChdbError) as error:
            raise _engine_error(error) from None
        finally:
            connection.close()

    def close(self) -> None:
        """Stop the engine. No statement may be running."""
        self._anchor.close()


def _connect(path: str) -> Any:
    return chdb.connect(path)  # type: ignore[no-untyped-call]  # chdb does not annotate this function


def _insert(connection: Any, insert: re.Match[bytes], statement: EngineStatement) -> StatementResult:
    """Insert binary rows as a stream. In a statement, the engine would skip first bytes that look like white space.

    A stream does not report errors of the table, such as a violated constraint. Therefore text formats do not use it.
    """
    with connection.send_insert(insert["head"].decode(), insert["format"].decode()) as stream:
        stream.append(statement.text[insert.end() :])
        done = stream.finish()
    return StatementResult(b"", "", 0, done.rows_written, round(done.elapsed * 1e9))


def _query(connection: Any, statement: EngineStatement) -> StatementResult:
    is_insert = _INSERT.match(statement.text) is not None
    own_format = None if is_insert else _FORMAT.search(statement.text[-_TAIL_BYTES:])
    wanted = own_format["name"].decode() if own_format else statement.default_format or _PLAIN
    # The names of the columns distinguish a result without rows from a statement without a result.
    asks_names = not is_insert and not own_format and wanted == _PLAIN
    result = connection.query(
        statement.text, _PLAIN + "WithNames" if asks_names else wanted, params=dict(statement.parameters)
    )
    body = bytes(result.bytes() or b"")
    return StatementResult(
        body=body.partition(b"\n")[2] if asks_names else body,
        format=wanted if body or own_format else "",
        read_rows=result.rows_read(),
        written_rows=result.rows_written(),
        elapsed_ns=round(result.elapsed() * 1e9),
    )


def _preparations(statement: EngineStatement) -> list[str]:
    settings = {**statement.settings, **({"readonly": "2"} if statement.read_only else {})}
    for name in settings:
        if not _SETTING.fullmatch(name):
            raise EngineError(UNKNOWN_SETTING, f"Code: {UNKNOWN_SETTING}. DB::Exception: Invalid name of a setting.")
    done = []
    if statement.database:
        done.append("USE " + _quoted(statement.database, "`"))
    if settings:
        done.append("SET " + ", ".join(f"{name} = {_quoted(value, chr(39))}" for name, value in settings.items()))
    return done


def _quoted(text: str, quote: str) -> str:
    return quote + text.replace("\\", "\\\\").replace(quote, "\\" + quote) + quote


def _engine_error(error: Exception) -> EngineError:
    text = str(error)
    found = _CODE.search(text)
    if found is None:
        return EngineError(UNKNOWN, f"Code: {UNKNOWN}. DB::Exception: {text}. (UNKNOWN_EXCEPTION)")
    return EngineError(int(found["code"]), text[found.start() :])
