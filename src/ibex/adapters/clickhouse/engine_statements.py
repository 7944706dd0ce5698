"""Running one statement on the ClickHouse engine in this process (chdb), as a server runs one request."""

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
# An INSERT whose rows follow in a format: everything before FORMAT, with quoted names and texts passed over.
_INSERT_WITH_ROWS = re.compile(
    rb"""(?P<head>\s*INSERT\b(?:[^`'"]|`[^`]*`|'[^']*'|"[^"]*")*?)\bFORMAT\s+(?P<format>\w+)[ \t\f]*\r?\n""",
    re.IGNORECASE,
)
_TEXT_FORMATS: Final = frozenset({b"jsoneachrow", b"jsoncompacteachrow", b"tabseparated", b"csv", b"values"})
# Where the FORMAT clause is looked for: of an INSERT in front of its rows, of any other statement at its end.
_HEAD_BYTES: Final = 65_536
_TAIL_BYTES: Final = 100
_PLAIN: Final = "TabSeparated"
UNKNOWN_SETTING: Final = 115
UNKNOWN: Final = 1002
"""What ClickHouse calls an error without a code of its own, UNKNOWN_EXCEPTION."""


class EngineError(Exception):
    """What the engine refused: its code and its text, in its words."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


@dataclass(frozen=True, slots=True)
class EngineStatement:
    """A statement, with the rows after it if it is an INSERT with data, and what holds for it alone."""

    text: bytes
    settings: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    database: str = ""
    default_format: str = ""
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class StatementResult:
    """The result's bytes and format, empty for a statement without a result, and what it took."""

    body: bytes
    format: str
    read_rows: int
    written_rows: int
    elapsed_ns: int


class Engine:
    """The engine on a directory. One process at a time may have it; any number of threads may run statements."""

    def __init__(self, path: Path | str) -> None:
        """Start the engine, or join the one that runs in this process. Raises ``EngineError``."""
        self._path = str(path)
        try:
            self._anchor = _connect(self._path)  # while it is open, the engine stays
        except RuntimeError as error:
            raise _engine_error(error) from None

    def run(self, statement: EngineStatement) -> StatementResult:
        """Run a statement on a connection of its own: settings and database end with it. Raises ``EngineError``."""
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
        """Stop the engine, once no statement runs on it."""
        self._anchor.close()


def _connect(path: str) -> Any:
    return chdb.connect(path)  # type: ignore[no-untyped-call]  # it has annotations everywhere but here


def _insert(connection: Any, insert: re.Match[bytes], statement: EngineStatement) -> StatementResult:
    """Insert rows as a stream: in a statement, the engine would take the first bytes of binary rows for white space.

    What the table itself refuses, a constraint say, a stream does not tell; so text goes as a statement.
    """
    with connection.send_insert(insert["head"].decode(), insert["format"].decode()) as stream:
        stream.append(statement.text[insert.end() :])
        done = stream.finish()
    return StatementResult(b"", "", 0, done.rows_written, round(done.elapsed * 1e9))


def _query(connection: Any, statement: EngineStatement) -> StatementResult:
    is_insert = _INSERT.match(statement.text) is not None
    own_format = None if is_insert else _FORMAT.search(statement.text[-_TAIL_BYTES:])
    wanted = own_format["name"].decode() if own_format else statement.default_format or _PLAIN
    # Only with names does a result without rows differ from no result.
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
            raise EngineError(UNKNOWN_SETTING, f"Code: {UNKNOWN_SETTING}. DB::Exception: No setting is called that.")
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
