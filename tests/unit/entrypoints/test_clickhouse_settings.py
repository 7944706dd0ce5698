"""The settings of ClickHouse."""

from __future__ import annotations

import pytest

from ibex.adapters.clickhouse.layout import BATCHES_PER_SECOND
from ibex.entrypoints.settings import Settings, SettingsError


def test_a_single_server_is_the_default() -> None:
    """The rate is that of four workers."""
    settings = Settings()
    assert settings.clickhouse_cluster is None
    assert settings.trace_batches_per_second == BATCHES_PER_SECOND


@pytest.mark.parametrize("name", ["main", "my-cluster_2.eu"])
def test_a_cluster_has_a_name(name: str) -> None:
    """It is one from system.clusters."""
    assert Settings.load({"IBEX_CLICKHOUSE_CLUSTER": name}).clickhouse_cluster == name


@pytest.mark.parametrize("name", ["'", "{cluster}", "a b", "-a"])
def test_a_name_that_no_cluster_has_is_refused(name: str) -> None:
    """A macro is not a name: system.clusters is asked for it."""
    with pytest.raises(SettingsError, match="IBEX_CLICKHOUSE_CLUSTER is"):
        Settings.load({"IBEX_CLICKHOUSE_CLUSTER": name})
