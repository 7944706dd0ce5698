"""The generated pages of docs/reference match the code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tools.reference import clickhouse, commands, errors, http, postgres
from tools.reference.__main__ import PAGES, main
from tools.reference.markdown import table

from harness.http_scene import HttpScene
from ibex.adapters.http_server.errors import TABLE
from ibex.adapters.postgres.tables import METADATA
from ibex.domain.errors import ErrorCode
from ibex.entrypoints.cli.main import cli
from ibex.entrypoints.cli.traces import traces

if TYPE_CHECKING:
    import rich_click as click

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", PAGES)
def test_the_page_in_the_repository_is_current(name: str) -> None:
    """`make check` tests this too. `make reference` writes the pages."""
    assert (ROOT / name).read_text(encoding="utf-8") == PAGES[name]()


def test_an_outdated_page_fails_the_check_until_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The check names each page and changes nothing."""
    monkeypatch.chdir(tmp_path)

    assert main(["--check"]) == 1
    message = capsys.readouterr().err
    assert all(name in message for name in PAGES)
    assert list(tmp_path.iterdir()) == []
    assert main([]) == 0
    assert main(["--check"]) == 0


def test_every_error_code_has_a_section_with_its_status() -> None:
    """A code without a text fails the generator."""
    text = errors.page()

    for code, (status, kind) in TABLE.items():
        section = text.partition(f"\n## {code}\n")[2].partition("\n## ")[0]
        assert str(status) in section
        assert f"`{kind}`" in section
        assert "*Do:*" in section


def test_the_page_says_where_a_retry_can_help() -> None:
    """It can for an outage, and not for a request that is wrong."""
    rows = {row.split("`")[1]: row for row in errors.page().splitlines() if row.startswith("| [`")}

    assert "can help" in rows[ErrorCode.OVERLOADED]
    assert "can help" in rows[ErrorCode.PROVIDER_TIMEOUT]
    assert "can help" not in rows[ErrorCode.INVALID_JSON]
    assert "can help" not in rows[ErrorCode.INVALID_REQUEST]
    assert "can help" not in rows[ErrorCode.INTERNAL_ERROR]


def test_every_command_and_option_is_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new option appears without an edit of the generator."""
    without = commands.page()
    slow: click.Command = traces.commands["slow"]
    monkeypatch.setattr(slow, "params", slow.params[:1])
    fewer = commands.page()

    assert "## ibex traces slow" in without
    assert "`-n, --limit INTEGER RANGE`" in without.partition("## ibex traces slow")[2].partition("## ")[0]
    assert len(fewer) < len(without)
    assert set(cli.commands) <= set(re.findall(r"^## ibex (\w+)", without, re.MULTILINE))


async def test_every_path_of_the_openapi_document_is_on_the_page() -> None:
    """The variants with an organization in the path are described in a sentence."""
    document = json.loads((await HttpScene().get("/schema/openapi.json")).body)
    text = http.page()
    missing = [
        f"{method.upper()} {path}"
        for path, item in document["paths"].items()
        for method in set(item) & {"get", "post", "delete"}
        if f"`{method.upper()} {path}`" not in text and not path.startswith("/v1/orgs/")
    ]

    assert document["paths"]
    assert missing == []


async def test_every_header_of_the_openapi_document_is_on_the_page() -> None:
    """Parameters of requests, and headers of responses."""
    document = (await HttpScene().get("/schema/openapi.json")).body.decode()
    names = set(re.findall(r'"(X-[\w-]+)"', document))

    assert "X-IBEX-Session-ID" in names
    assert sorted(name for name in names if f"`{name}`" not in http.page()) == []


def test_every_column_of_postgresql_is_on_the_page_with_a_meaning() -> None:
    """Another test compares the tables with a migrated database."""
    text = postgres.page()

    for one in METADATA.tables.values():
        section = text.partition(f"\n## {one.name}\n")[2].partition("\n## ")[0]
        assert all(
            re.search(rf"^\| `{column.name}` \| `\w.*` \| [\w`]", section, re.MULTILINE) for column in one.columns
        )


def test_a_column_without_a_meaning_fails_the_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a new column is documented together with its migration."""
    monkeypatch.setattr(clickhouse, "columns", lambda: {"new_column": "UInt32"})

    with pytest.raises(KeyError, match="new_column"):
        clickhouse.page()


def test_a_cell_cannot_break_its_table() -> None:
    """A bar is escaped, and a line break becomes a space."""
    assert table(("a", "b"), [("x|y", "two\nlines"), ("", "z")]) == [
        "| a | b |",
        "|---|---|",
        "| x\\|y | two lines |",
        "| | z |",
    ]
