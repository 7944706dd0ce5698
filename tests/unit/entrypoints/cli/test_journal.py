"""The commands for journals. ``tests/integration/test_journal_commands.py`` runs them over real databases."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from harness.journal_entries import new_exchange
from ibex.adapters.journal.dead_letters import append_dead_letter
from ibex.adapters.journal.sqlite import SqliteJournal
from ibex.adapters.system.ids import SystemIds
from ibex.domain.record.journal import Sink, append_and_wait

if TYPE_CHECKING:
    from harness.cli_scene import CliScene


def leave_a_journal(ibex: CliScene) -> None:
    """Leave a journal with one exchange in the home folder."""

    async def leave() -> None:
        journal = SqliteJournal(ibex.home.journal / "0", SystemIds())
        await journal.open()
        await append_and_wait(journal, new_exchange())
        await journal.close()

    asyncio.run(leave())
    append_dead_letter(ibex.home.journal / "0", Sink.TRACES, "refused", {"id": "a"})


def test_journals_are_listed(ibex: CliScene) -> None:
    """The table has one line for each, and ``--json`` all fields."""
    assert ibex.run("journal", "list").out == f"There is no journal in {ibex.home.journal}.\n"
    leave_a_journal(ibex)

    (listed,) = ibex.run("journal", "list", "--json").json
    headings, line = ibex.run("journal", "list").out.splitlines()

    assert (listed["state"], listed["checkpoints"], listed["traces"], listed["dead_letters"]) == ("orphaned", 1, 1, 1)
    assert listed["path"] == str(ibex.home.journal / "0")
    assert headings.startswith("journal")
    assert "dead letters" in headings
    assert line.split()[:2] == [str(ibex.home.journal / "0"), "orphaned"]


def test_listing_needs_no_servers_and_no_valid_variables_of_the_platform(ibex: CliScene) -> None:
    """Neither is there a warning."""
    ibex.environ |= {"IBEX_PORT": "tcp://10.0.0.1:8080", "OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317"}

    done = ibex.run("journal", "list")

    assert (done.code, done.err) == (0, "")


@pytest.mark.parametrize("command", ["drain", "replay"])
def test_delivering_needs_the_databases(ibex: CliScene, command: str) -> None:
    """The message names both settings."""
    leave_a_journal(ibex)

    done = ibex.run("journal", command)

    assert done.code == 2
    assert "IBEX_DATABASE_URL is not set" in done.err
    assert "IBEX_CLICKHOUSE_URL is not set" in done.err
