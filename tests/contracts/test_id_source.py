"""The contract of ``IdSource``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.memory.ids import SequentialIds
from ibex.adapters.system.ids import SystemIds

if TYPE_CHECKING:
    from ibex.domain.ids import IdSource

SOURCES = [SequentialIds, SystemIds]
MANY = 10_000


@pytest.mark.parametrize("make", SOURCES)
def test_ids_are_unique_and_of_version_7(make: type[IdSource]) -> None:
    """Ids are ordered by creation time to the millisecond (RFC 9562, section 5.7)."""
    source = make()
    ids = [source.uuid7() for _ in range(MANY)]

    assert len(set(ids)) == MANY
    assert {(i.version, i.variant) for i in ids} == {(7, "specified in RFC 4122")}
    milliseconds = [i.int >> 80 for i in ids]
    assert milliseconds == sorted(milliseconds)


@pytest.mark.parametrize("make", SOURCES)
def test_secrets_are_unique_and_have_32_bytes(make: type[IdSource]) -> None:
    """Tokens are made of these secrets."""
    source = make()
    secrets = {source.secret() for _ in range(MANY)}

    assert len(secrets) == MANY
    assert {len(secret) for secret in secrets} == {32}
