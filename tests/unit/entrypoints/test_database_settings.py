"""The settings of PostgreSQL."""

from __future__ import annotations

import pytest

from ibex.adapters.postgres.database import POOL_SIZE
from ibex.entrypoints.settings import Settings, SettingsError


def test_the_defaults_work_behind_a_pooler() -> None:
    """No statement is prepared."""
    settings = Settings.load({})
    assert (settings.database_prepare, settings.database_pool_size) == (False, POOL_SIZE)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("IBEX_DATABASE_POOL_SIZE", "0"), ("IBEX_DATABASE_POOL_SIZE", "1001"), ("IBEX_DATABASE_PREPARE", "yes")],
)
def test_a_wrong_value_is_refused(variable: str, value: str) -> None:
    """The message names the variable, the value and the allowed ones."""
    with pytest.raises(SettingsError, match=f"{variable} is '{value}'; allowed: "):
        Settings.load({variable: value})
