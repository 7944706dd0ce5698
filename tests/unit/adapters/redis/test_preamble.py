"""The lease, and which instance answers, as Redis tells them."""

from __future__ import annotations

import pytest
from redis.exceptions import NoPermissionError

from ibex.adapters.redis.preamble import LeasePreamble, instance_of


def test_a_lease_counts_if_it_names_the_instance_that_answers() -> None:
    """Any other value is none."""
    lease = LeasePreamble()
    assert lease.valid_lease("one", b"one mark") == "one mark"
    for reply in (b"two mark", b"one", b"", None, 7):
        assert lease.valid_lease("one", reply) is None
    assert lease.valid_lease("", b" mark") is None, "the instance is not known"


@pytest.mark.parametrize(
    ("reply", "instance"),
    [
        (b"# Server\r\nredis_version:6.2\r\nrun_id:abc\r\n", "abc"),
        (b"redis_version:6.2\r\n", ""),
        (NoPermissionError("no INFO"), ""),
        (None, ""),
    ],
)
def test_the_instance_is_what_the_server_says(reply: object, instance: str) -> None:
    """Nothing where its user may not ask."""
    assert instance_of(reply) == instance
