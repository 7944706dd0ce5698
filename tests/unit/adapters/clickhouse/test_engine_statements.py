"""Tests of statements on the engine in this process."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from ibex.adapters.clickhouse.engine_statements import Engine, EngineError, EngineStatement

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def database(engine_in_memory: Engine) -> Iterator[str]:
    """The name of a database with one table, ``rows (n UInt32, text String)``, which deduplicates repeated batches."""
    name = f"test_{uuid4().hex}"
    engine_in_memory.run(_statement(f"CREATE DATABASE {name}"))
    engine_in_memory.run(
        _statement(
            f"CREATE TABLE {name}.rows (n UInt32, text String) ENGINE = MergeTree ORDER BY n"
            " SETTINGS non_replicated_deduplication_window = 10"
        )
    )
    yield name
    engine_in_memory.run(_statement(f"DROP DATABASE {name}"))


def _statement(text: str | bytes, **arguments: object) -> EngineStatement:
    # Here, since loading the engine takes longer than most runs that do without it.
    return EngineStatement(text.encode() if isinstance(text, str) else text, **arguments)  # type: ignore[arg-type]


def _count(engine: Engine, database: str) -> int:
    return int(engine.run(_statement("SELECT count() FROM rows", database=database)).body)


def test_a_result_has_the_requested_or_the_default_format(engine_in_memory: Engine) -> None:
    """The statement's format takes precedence over the caller's default, which takes precedence over tab-separated."""
    plain = engine_in_memory.run(_statement("SELECT 1 AS a, 'x\ty' AS b"))
    assert (plain.body, plain.format) == (b"1\tx\\ty\n", "TabSeparated")
    by_default = engine_in_memory.run(_statement("SELECT 1 AS a", default_format="JSONEachRow"))
    assert (by_default.body, by_default.format) == (b'{"a":1}\n', "JSONEachRow")
    own = engine_in_memory.run(_statement("SELECT 1 AS a\n FORMAT CSV ; ", default_format="JSONEachRow"))
    assert (own.body, own.format) == (b"1\n", "CSV")


def test_an_empty_result_has_a_format_and_a_command_has_none(engine_in_memory: Engine, database: str) -> None:
    """This is how clients distinguish a query from a command."""
    nothing_found = engine_in_memory.run(_statement("SELECT n FROM rows", database=database))
    command = engine_in_memory.run(_statement("TRUNCATE TABLE rows", database=database))
    assert (nothing_found.body, nothing_found.format) == (b"", "TabSeparated")
    assert (command.body, command.format) == (b"", "")


def test_settings_and_database_apply_to_one_statement_only(engine_in_memory: Engine, database: str) -> None:
    """The next statement runs with the defaults."""
    asked = "SELECT currentDatabase(), getSetting('max_threads')"
    first = engine_in_memory.run(_statement(asked, database=database, settings={"max_threads": "3"}))
    assert first.body == f"{database}\t3\n".encode()
    assert database.encode() not in engine_in_memory.run(_statement(asked)).body


def test_values_are_bound_by_the_engine(engine_in_memory: Engine) -> None:
    """Values are written as ``{name:Type}`` and never become part of the statement's text."""
    answer = engine_in_memory.run(
        _statement("SELECT {a:UInt8} + 1, {b:String}", parameters={"a": "41", "b": "it's; --"})
    )
    assert answer.body == b"42\tit\\'s; --\n"


@pytest.mark.parametrize("count", [1, 9, 10, 13, 32])
def test_binary_rows_that_begin_with_white_space_bytes_are_inserted(
    engine_in_memory: Engine, database: str, count: int
) -> None:
    """The counts of columns and rows may look like white space, but are part of the data."""
    columns = ", ".join(f"c{n} UInt8" for n in range(32))
    engine_in_memory.run(_statement(f"CREATE TABLE wide ({columns}) ENGINE = Memory", database=database))
    values = ", ".join(f"toUInt8(number) AS c{n}" for n in range(32))
    selected = f"SELECT {values} FROM numbers({count}) FORMAT Native"  # noqa: S608 - the numbers are the test's own
    rows = engine_in_memory.run(_statement(selected)).body
    answer = engine_in_memory.run(_statement(b"INSERT INTO wide FORMAT Native\n" + rows, database=database))
    assert answer.written_rows == count
    assert engine_in_memory.run(_statement("SELECT count() FROM wide", database=database)).body == b"%d\n" % count


@pytest.mark.parametrize(
    "text",
    [
        "INSERT INTO rows (n, text) FORMAT CSV\n1,a\n2,b\n",
        "INSERT INTO rows FORMAT JSONEachRow\r\n" + '{"n": 1, "text": "FORMAT CSV\\n"}\n{"n": 2, "text": ";"}',
        "insert into rows (`n`, text) values (1, 'FORMAT CSV\n3,x'), (2, 'b')",
        "INSERT INTO rows SELECT number, 'FORMAT' FROM numbers(2)",
        "INSERT INTO rows SETTINGS max_threads = 1 FORMAT TabSeparated\n1\ta\n2\tb\n",
    ],
)
def test_rows_are_inserted_from_any_source(engine_in_memory: Engine, database: str, text: str) -> None:
    """Rows can be in a format, in VALUES or from a query. Quoted text is not parsed as syntax."""
    engine_in_memory.run(_statement(text, database=database))
    assert _count(engine_in_memory, database) == 2


def test_a_repeated_batch_counts_once(engine_in_memory: Engine, database: str) -> None:
    """The token is a setting of the statement."""
    for token in ("a", "a", "b"):
        insert = _statement(
            "INSERT INTO rows FORMAT CSV\n1,a\n", database=database, settings={"insert_deduplication_token": token}
        )
        engine_in_memory.run(insert)
    assert _count(engine_in_memory, database) == 2


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("SELECT * FROM no_such_table", 60),
        ("SELEKT 1", 62),
        ("SELECT throwIf(1)", 395),
        ("INSERT INTO rows FORMAT CSV\nno number,a\n", 27),
        ("INSERT INTO no_such_table FORMAT CSV\n1,a\n", 60),
    ],
)
def test_an_error_has_the_engines_code_and_text(engine_in_memory: Engine, database: str, text: str, code: int) -> None:
    """The failed statement leaves nothing behind."""
    with pytest.raises(EngineError, match=rf"^Code: {code}\. DB::Exception: ") as caught:
        engine_in_memory.run(_statement(text, database=database))
    assert caught.value.code == code
    assert _count(engine_in_memory, database) == 0


def test_a_read_only_statement_changes_nothing(engine_in_memory: Engine, database: str) -> None:
    """Reading is allowed, writing is refused."""
    assert engine_in_memory.run(_statement("SELECT 1", read_only=True)).body == b"1\n"
    with pytest.raises(EngineError) as caught:
        engine_in_memory.run(_statement("TRUNCATE TABLE rows", database=database, read_only=True))
    assert caught.value.code == 164


@pytest.mark.parametrize("name", ["no_such_setting", "max_threads = 1, x", ""])
def test_an_invalid_name_of_a_setting_is_refused(engine_in_memory: Engine, name: str) -> None:
    """Its name never becomes part of a statement."""
    with pytest.raises(EngineError) as caught:
        engine_in_memory.run(_statement("SELECT 1", settings={name: "1"}))
    assert caught.value.code == 115


def test_names_and_values_are_quoted(engine_in_memory: Engine) -> None:
    """A database or a value with quotes stays a name or a value."""
    with pytest.raises(EngineError, match=re.escape("does not exist")):
        engine_in_memory.run(_statement("SELECT 1", database="no`such\\"))
    asked = _statement("SELECT getSetting('log_comment')", settings={"log_comment": "it's \\ `quoted`"})
    assert engine_in_memory.run(asked).body == b"it\\'s \\\\ `quoted`\n"


def test_a_row_that_its_table_rejects_is_an_error(engine_in_memory: Engine, database: str) -> None:
    """This includes rows as text after the statement: no row is reported as stored that is not."""
    engine_in_memory.run(_statement(f"ALTER TABLE {database}.rows ADD CONSTRAINT short CHECK length(text) < 3"))
    rows = b'INSERT INTO rows FORMAT JSONEachRow\n{"n":1,"text":"ab"}\n{"n":2,"text":"abc"}\n'
    with pytest.raises(EngineError) as caught:
        engine_in_memory.run(_statement(rows, database=database))
    assert caught.value.code == 469
    assert _count(engine_in_memory, database) == 0
