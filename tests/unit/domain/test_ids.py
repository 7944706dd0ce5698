"""Identifiers."""

from __future__ import annotations

from uuid import UUID, uuid5

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibex.domain.ids import _SESSION_NAMESPACE, session_id, uuid7

MILLISECONDS = st.integers(0, (1 << 48) - 1)
ENTROPY = st.binary(min_size=10, max_size=10)


def test_the_example_of_rfc_9562_is_reproduced() -> None:
    """The example is the UUIDv7 of appendix A.6."""
    made = uuid7(0x017F22E279B0, bytes.fromhex("0cc318c4dc0c0c07398f"))

    assert made == UUID("017F22E2-79B0-7CC3-98C4-DC0C0C07398F")


@given(MILLISECONDS, ENTROPY)
def test_a_uuid7_contains_its_version_variant_and_time(unix_ms: int, entropy: bytes) -> None:
    """The entropy changes none of them."""
    made = uuid7(unix_ms, entropy)

    assert (made.version, made.variant, made.int >> 80) == (7, "specified in RFC 4122", unix_ms)


@given(MILLISECONDS, ENTROPY, MILLISECONDS, ENTROPY)
def test_later_ids_are_greater(first_ms: int, first: bytes, second_ms: int, second: bytes) -> None:
    """Ids are ordered as their milliseconds are."""
    if first_ms < second_ms:
        assert uuid7(first_ms, first) < uuid7(second_ms, second)


@pytest.mark.parametrize(("unix_ms", "entropy"), [(0, bytes(9)), (0, bytes(11)), (-1, bytes(10)), (1 << 48, bytes(10))])
def test_a_time_or_entropy_that_does_not_fit_is_refused(unix_ms: int, entropy: bytes) -> None:
    """A time has 48 bits, and the entropy has a fixed size."""
    with pytest.raises(ValueError, match="UUIDv7"):
        uuid7(unix_ms, entropy)


def test_a_sessions_id_never_changes() -> None:
    """Stored sessions are found by this id, so it is pinned across releases."""
    assert session_id(UUID(int=1), UUID(int=2), "chat-1") == UUID("61be707b-8675-5050-ae75-dab210844b21")


@given(st.uuids(), st.uuids(), st.text(min_size=1))
def test_a_sessions_id_is_a_name_based_uuid(org: UUID, agent: UUID, handle: str) -> None:
    """RFC 9562, section 5.5 defines it. The name consists of organization, agent and handle."""
    assert session_id(org, agent, handle) == uuid5(_SESSION_NAMESPACE, f"{org}/{agent}/{handle}")


@given(st.uuids(), st.uuids(), st.uuids(), st.text(min_size=1))
def test_a_handle_belongs_to_one_organization_and_agent(org: UUID, agent: UUID, other: UUID, handle: str) -> None:
    """The same handle in another organization or of another agent is another session."""
    mine = session_id(org, agent, handle)

    assert mine == session_id(org, agent, handle)
    assert mine.version == 5
    assert (mine == session_id(other, agent, handle)) is (org == other)
    assert (mine == session_id(org, other, handle)) is (agent == other)
