"""What may be served under which stamp, and for how long."""

from __future__ import annotations

import pytest

from ibex.domain.freshness import (
    BOUND_S,
    DRAIN_INTERVAL_S,
    GRACE_S,
    LEASE_S,
    Entry,
    Kind,
    News,
    Stamp,
    Verdict,
    judge,
    no_news,
)

SECOND = 1_000_000_000
FETCHED = 100 * SECOND
CONFIRMED = 110 * SECOND
EXPIRES = 130 * SECOND
GRACE_ENDS = CONFIRMED + 2 * SECOND
STAMP = Stamp("instance", "generation")


def entry(stamp: Stamp | None = STAMP, *, confirmed_ns: int = CONFIRMED) -> Entry[str]:
    """Return an entry that lives from second 100 to 130."""
    return Entry("value", stamp, FETCHED, confirmed_ns, EXPIRES)


@pytest.mark.parametrize(
    ("now_ns", "verdict"),
    [
        (CONFIRMED, Verdict.SERVE),
        (GRACE_ENDS + 1, Verdict.SERVE),
        (EXPIRES - 1, Verdict.SERVE),
        (EXPIRES, Verdict.FETCH_IF_POSSIBLE),
        (EXPIRES + 1_000 * SECOND, Verdict.FETCH_IF_POSSIBLE),
    ],
)
def test_under_its_own_stamp_an_entry_is_proven(now_ns: int, verdict: Verdict) -> None:
    """However long ago it was confirmed; once it has run out it is only what is left if the source is down."""
    assert judge(entry(), STAMP, now_ns) is verdict


@pytest.mark.parametrize("of", [None, Stamp("instance", "another"), Stamp("another", "generation")])
@pytest.mark.parametrize("now_ns", [FETCHED, CONFIRMED, EXPIRES])
def test_under_another_stamp_it_is_fetched_anew(of: Stamp | None, now_ns: int) -> None:
    """Another generation is a change, another lease may have lost one, and who has no stamp proves nothing."""
    assert judge(entry(of), STAMP, now_ns) is Verdict.FETCH


@pytest.mark.parametrize("of", [None, STAMP])
@pytest.mark.parametrize(
    ("now_ns", "verdict"),
    [
        (CONFIRMED - 1, Verdict.SERVE),
        (CONFIRMED, Verdict.SERVE),
        (GRACE_ENDS, Verdict.SERVE),
        (GRACE_ENDS + 1, Verdict.FETCH),
        (EXPIRES, Verdict.FETCH),
    ],
)
def test_without_a_stamp_there_is_grace(of: Stamp | None, now_ns: int, verdict: Verdict) -> None:
    """Two seconds from the last confirmation, whatever the entry's own stamp is."""
    assert judge(entry(of), None, now_ns) is verdict


@pytest.mark.parametrize(("now_ns", "verdict"), [(EXPIRES - 1, Verdict.SERVE), (EXPIRES, Verdict.FETCH)])
def test_grace_does_not_go_beyond_the_end(now_ns: int, verdict: Verdict) -> None:
    """An entry that has run out is not served unproven, though it was confirmed a moment ago."""
    assert judge(entry(confirmed_ns=EXPIRES - 1), None, now_ns) is verdict


@pytest.mark.parametrize(
    ("lease", "generations", "stamp"),
    [
        ("L", {Kind.TOKENS: "t", Kind.AGENTS: "a"}, Stamp("L", "t")),
        ("L", {Kind.AGENTS: "a"}, None),
        (None, {Kind.TOKENS: "t"}, None),
        (None, {}, None),
    ],
)
def test_a_stamp_is_a_lease_and_the_kinds_generation(
    lease: str | None, generations: dict[Kind, str], stamp: Stamp | None
) -> None:
    """Where either is missing there is none, and nothing is confirmed."""
    assert News(1, lease, generations).stamp(Kind.TOKENS) == stamp


def test_no_news_confirm_nothing() -> None:
    """They have the time of the question and nothing else."""
    news = no_news(7)

    assert news.asked_ns == 7
    assert [news.stamp(kind) for kind in Kind] == [None, None, None]


def test_the_bound_is_made_of_its_parts() -> None:
    """A drain, the lease's life and the grace leave half a second to spare."""
    assert DRAIN_INTERVAL_S + LEASE_S + GRACE_S < BOUND_S
