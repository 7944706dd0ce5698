"""``ibex journal`` as an operator uses it: on the journals of killed proxies, with real databases."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

import httpx
import psycopg
import pytest

from harness.command import run_ibex
from harness.loopback import PEPPERS, REQUEST
from harness.process import IbexProcess
from harness.production import BOOTSTRAP, START_TIMEOUT_S
from harness.relay import Relay
from ibex.adapters.clickhouse.connection import disconnect
from ibex.adapters.postgres.roles import APP_ROLE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.clickhouse import ClickHouseDatabase
    from harness.command import Ran
    from harness.postgres import PostgresDatabase

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

REQUESTS = 5
REFUSE = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
$$BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = 'check_violation'; END$$;
CREATE TRIGGER refuse BEFORE INSERT ON checkpoints FOR EACH ROW EXECUTE FUNCTION refuse();
"""
ACCEPT = "DROP TRIGGER refuse ON checkpoints; DROP FUNCTION refuse();"


class Scene:
    """A proxy that reaches PostgreSQL through a relay, and the commands of its operator."""

    def __init__(self, postgres: PostgresDatabase, clickhouse: ClickHouseDatabase, relay: Relay, folder: Path) -> None:
        self.postgres = postgres
        self.clickhouse = clickhouse
        self.relay = relay
        self.folder = folder
        self.environ = {
            "IBEX_PORT": "0",
            "IBEX_DATABASE_URL": f"postgresql://{APP_ROLE}@127.0.0.1:{relay.port}/{postgres.name}",
            "IBEX_AUTH_DATABASE_URL": postgres.auth_url,
            "IBEX_CLICKHOUSE_URL": clickhouse.url,
            "IBEX_TOKEN_PEPPERS": PEPPERS,
            "IBEX_JOURNAL_DIR": str(folder / "journal"),
            "IBEX_RATE_LIMIT_DEFAULT_RPM": "0",
        }
        self.token = json.loads(self.ibex(*BOOTSTRAP).stdout)["agent_token"]

    def ibex(self, *arguments: str) -> Ran:
        """Run a command with ``--json``."""
        return run_ibex(self.folder / ".ibex", self.environ, *arguments, "--json")

    def journals(self) -> list[dict[str, Any]]:
        """Return what ``ibex journal list`` prints."""
        listed = self.ibex("journal", "list")
        assert listed.returncode == 0, listed.stderr
        found: list[dict[str, Any]] = json.loads(listed.stdout)
        return found

    def leave_a_journal(self) -> None:
        """Answer requests while PostgreSQL cannot be reached, and kill the proxy."""
        process = IbexProcess.spawn(["serve"], self.environ, self.folder)
        address = json.loads(process.wait_for_line("listening on", START_TIMEOUT_S))["event"].split()[-1]
        with httpx.Client(headers={"authorization": f"Bearer {self.token}"}, trust_env=False) as client:
            for number in range(REQUESTS):
                if number == 1:  # the first request has read the directive
                    self.relay.cut()
                answer = client.post(f"{address}/v1/chat/completions", json=REQUEST)
                assert answer.status_code == 200, answer.text
        (running,) = self.journals()
        assert (running["state"], running["process"]) == ("in use", process.process.pid)
        assert process.stop(signal.SIGKILL) == -signal.SIGKILL

    def recorded(self) -> tuple[int, int]:
        """Return the number of turns and of traces."""
        with psycopg.connect(self.postgres.superuser_url) as connection:
            ((turns,),) = connection.execute("SELECT count(*) FROM checkpoints").fetchall()
        client = self.clickhouse.client()
        try:
            query = "SELECT count() FROM {database:Identifier}.llm_traces"
            ((traces,),) = client.query(query, parameters={"database": self.clickhouse.name}).result_rows
        finally:
            disconnect(client)
        return int(turns), int(traces)

    def change_schema(self, statements: str) -> None:
        """Run statements as the superuser."""
        with psycopg.connect(self.postgres.superuser_url, autocommit=True) as connection:
            connection.execute(statements)


@pytest.fixture
def scene(postgres: PostgresDatabase, clickhouse: ClickHouseDatabase, tmp_path: Path) -> Iterator[Scene]:
    """A scene with empty databases."""
    with Relay.running(postgres.socket) as relay:
        yield Scene(postgres, clickhouse, relay, tmp_path)


def test_the_journal_of_a_killed_proxy_is_listed_and_drained(scene: Scene) -> None:
    """While a database is down, the drain ends at its timeout with exit code 1, and the journal keeps the rest."""
    scene.leave_a_journal()
    (orphan,) = scene.journals()
    assert orphan["state"] == "orphaned"
    assert orphan["checkpoints"] + orphan["in_flight"] >= REQUESTS - 1
    assert orphan["oldest"] is not None

    down = scene.ibex("journal", "drain", "--timeout", "6")
    assert down.returncode == 1
    assert down.stderr.startswith("checkpoints cannot be delivered now: ")
    assert json.loads(down.stdout)[0]["checkpoints"] == orphan["checkpoints"]

    scene.relay.heal()
    drained = scene.ibex("journal", "drain")
    assert (drained.returncode, json.loads(drained.stdout)) == (0, [])
    assert scene.recorded() == (REQUESTS, REQUESTS)
    assert [(one["checkpoints"], one["traces"]) for one in scene.journals()] == [(0, 0)]


def test_dead_letters_are_delivered_once_the_cause_is_repaired(scene: Scene) -> None:
    """A replay before that changes nothing and ends with exit code 1. None is stored twice, in either database."""
    scene.leave_a_journal()
    scene.relay.heal()
    turns, _ = scene.recorded()
    scene.change_schema(REFUSE)
    try:
        assert scene.ibex("journal", "drain").returncode == 0
        assert scene.recorded() == (turns, REQUESTS)
        letters = REQUESTS - turns
        assert [one["dead_letters"] for one in scene.journals()] == [letters]
        refused = scene.ibex("journal", "replay")
        assert (refused.returncode, json.loads(refused.stdout)[0]["refused"]) == (1, letters)
    finally:
        scene.change_schema(ACCEPT)

    replayed = scene.ibex("journal", "replay")

    assert (replayed.returncode, json.loads(replayed.stdout)[0]["delivered"]) == (0, letters)
    assert scene.recorded() == (REQUESTS, REQUESTS)
    again = scene.ibex("journal", "replay")
    assert (again.returncode, json.loads(again.stdout)) == (0, [])
    assert [one["dead_letters"] for one in scene.journals()] == [0]


def test_the_commands_of_an_empty_folder_have_nothing_to_do(scene: Scene) -> None:
    """They succeed. Without ``--json`` they say so."""
    for command in ("list", "drain", "replay"):
        done = run_ibex(scene.folder / ".ibex", scene.environ, "journal", command)
        assert (done.returncode, done.stdout.split()[0]) == (0, "All" if command == "drain" else "There")
