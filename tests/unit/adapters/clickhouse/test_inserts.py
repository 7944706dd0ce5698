"""Tests of the settings of inserts: whether the server collects batches, and still recognizes a repeated one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from harness.clickhouse_client import NEW, OLD, RecordingClient
from ibex.adapters.clickhouse.inserts import SYNCHRONOUS, insert_settings
from ibex.adapters.clickhouse.layout import Layout

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

REPLICATED = "ReplicatedMergeTree"


def settings_with(**server: Any) -> dict[str, object]:
    """Return the settings of inserts on this server."""
    return dict(insert_settings(cast("Client", RecordingClient(**server)), Layout("ibex")))


@pytest.mark.parametrize(
    ("version", "settings", "engine"),
    [
        ("26.9.2.1", NEW, "MergeTree"),
        ("26.9.2.1", NEW, REPLICATED),
        ("26.2.1.1", NEW, "SharedMergeTree"),
        ("25.8.1.1", OLD, REPLICATED),
        ("23.7.1.2470", OLD, "SharedMergeTree"),
    ],
)
def test_inserts_are_asynchronous_if_batches_keep_their_tokens(
    version: str, settings: dict[str, str], engine: str
) -> None:
    """The server answers when the rows are stored. Deduplication is on."""
    sent = settings_with(version=version, settings=settings, engine=engine)
    effective = {**settings, **sent}
    assert (effective["async_insert"], effective["wait_for_async_insert"]) == ("1", "1")
    assert effective["async_insert_deduplicate"] == "1"


@pytest.mark.parametrize(
    ("version", "settings", "engine", "fixed"),
    [
        ("25.8.1.1", OLD, "MergeTree", ()),
        ("23.6.1.1", OLD, REPLICATED, ()),
        ("26.9.2.1", NEW, "Distributed", ()),
        ("26.9.2.1", NEW, "", ()),
        ("21.8.1.1", {}, REPLICATED, ()),
        ("25.8.1.1", OLD, REPLICATED, ("async_insert",)),
        ("25.8.1.1", OLD, REPLICATED, ("async_insert_deduplicate",)),
        ("26.9.2.1", {**NEW, "deduplicate_insert": "disable"}, REPLICATED, ("deduplicate_insert",)),
        ("26.9.2.1", {**NEW, "wait_for_async_insert": "0"}, REPLICATED, ("wait_for_async_insert",)),
    ],
)
def test_inserts_are_synchronous_if_a_batch_could_be_stored_twice_or_lost(
    version: str, settings: dict[str, str], engine: str, fixed: tuple[str, ...]
) -> None:
    """Versions and tables differ, and an administrator can fix the settings of a user."""
    assert settings_with(version=version, settings=settings, engine=engine, fixed=fixed) == SYNCHRONOUS


def test_the_server_collects_batches_for_a_tenth_of_a_second() -> None:
    """So a server stores at most ten parts a second, and a trace is visible in time."""
    sent = settings_with()
    assert sent["async_insert_busy_timeout_max_ms"] == sent["async_insert_busy_timeout_ms"] == "100"
    assert sent["async_insert_use_adaptive_busy_timeout"] == "0"


def test_settings_that_the_server_has_are_not_sent() -> None:
    """A user of ClickHouse Cloud or of a profile may not be allowed to set them."""
    sent = settings_with(
        settings={**NEW, "async_insert_deduplicate": "1"}, fixed=("async_insert", "deduplicate_insert")
    )
    assert not {"async_insert", "deduplicate_insert", "async_insert_deduplicate"} & sent.keys()
