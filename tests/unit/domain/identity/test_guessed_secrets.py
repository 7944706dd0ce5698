"""The attempts that count as guesses, and the rate of the lane."""

from __future__ import annotations

from uuid import UUID

import pytest

from ibex.domain.identity.guessed_secrets import (
    CONFIRMED_S,
    FREE_GUESSES,
    WINDOW_S,
    GuessedSecrets,
    LeakyBucket,
    RecentlyConfirmed,
    Share,
)

NS = 1_000_000_000
TOKEN = UUID(int=1)
OTHER = UUID(int=2)
REAL = b"r" * 32


def guess(guesses: GuessedSecrets, number: int, now_ns: int = 0, token_id: UUID = TOKEN) -> Share:
    """Try a wrong secret to the end, and return its share."""
    digest = b"%032d" % number
    attempt = guesses.begin(digest, token_id, now_ns)
    guesses.failed(attempt, digest)
    return attempt.share


def test_more_than_five_failed_secrets_of_an_id_go_through_the_lane() -> None:
    """The first attempt is treated like any new token, and the next few are suspect. Other ids are not affected."""
    guesses = GuessedSecrets()

    shares = [guess(guesses, number) for number in range(FREE_GUESSES + 3)]

    assert shares == [Share.FIRST_SEEN, *[Share.SUSPECT] * FREE_GUESSES, Share.LANE, Share.LANE]
    assert guess(guesses, 99, token_id=OTHER) is Share.FIRST_SEEN


def test_concurrent_guesses_count_before_they_fail() -> None:
    """Otherwise a thousand parallel guesses would all be first attempts."""
    guesses = GuessedSecrets()

    shares = [guesses.begin(b"%032d" % number, TOKEN, 0).share for number in range(FREE_GUESSES + 3)]

    assert shares[-2:] == [Share.LANE, Share.LANE]


def test_the_failures_of_an_id_expire_after_a_minute() -> None:
    """They still count a nanosecond earlier."""
    guesses = GuessedSecrets()
    for number in range(10):
        guess(guesses, number)

    assert guess(guesses, 10, WINDOW_S * NS - 1) is Share.LANE
    assert guess(guesses, 11, WINDOW_S * NS) is Share.FIRST_SEEN


def test_a_token_confirmed_within_the_hour_never_uses_the_lane() -> None:
    """The number of failed secrets with its id does not matter: an attacker cannot push the owner into the lane.

    After an hour the token is treated like any other.
    """
    guesses = GuessedSecrets()
    guesses.confirmed(guesses.begin(REAL, TOKEN, 0), REAL, 0)
    for number in range(100):
        guess(guesses, number, CONFIRMED_S * NS - 1)

    assert guesses.begin(REAL, TOKEN, CONFIRMED_S * NS - 1).share is Share.PROVEN
    assert guesses.begin(REAL, TOKEN, CONFIRMED_S * NS).share is Share.LANE


def test_a_token_that_auth_refuses_is_no_longer_proven() -> None:
    """Repeated attempts with a revoked token count as guesses."""
    guesses = GuessedSecrets()
    guesses.confirmed(guesses.begin(REAL, TOKEN, 0), REAL, 0)
    guesses.failed(guesses.begin(REAL, TOKEN, 0), REAL)

    assert guesses.begin(REAL, TOKEN, 0).share is Share.FIRST_SEEN


@pytest.mark.parametrize("outcome", ["confirmed", "undecided"])
def test_only_failures_count_as_guesses(outcome: str) -> None:
    """A live token or an outage leaves no window behind."""
    guesses = GuessedSecrets()
    for number in range(20):
        digest = b"%032d" % number
        attempt = guesses.begin(digest, TOKEN, 0)
        assert attempt.share is Share.FIRST_SEEN
        if outcome == "confirmed":
            guesses.confirmed(attempt, digest, 0)
        else:
            guesses.undecided(attempt)

    assert len(guesses) == 0


def test_an_attempt_that_ends_in_a_later_window_does_not_change_that_window() -> None:
    """The window in which it began has expired."""
    guesses = GuessedSecrets()
    slow = guesses.begin(REAL, TOKEN, 0)
    guess(guesses, 1, WINDOW_S * NS)
    guesses.undecided(slow)

    assert guess(guesses, 2, WINDOW_S * NS) is Share.SUSPECT


def test_the_memory_for_guesses_is_bounded() -> None:
    """Made-up ids and digests replace the oldest ones, and the maximum is never exceeded."""
    guesses = GuessedSecrets(max_ids=10)
    for number in range(100):
        guess(guesses, number, token_id=UUID(int=number))
    proven: RecentlyConfirmed[int] = RecentlyConfirmed(max_keys=10)
    for number in range(100):
        proven.add(number, number)
    proven.add(95, 100)

    assert len(guesses) == 10
    assert len(proven) == 10
    assert (proven.has(89, 100), proven.has(90, 100)) == (False, True)


def test_the_rate_limit_of_the_lane_allows_a_burst() -> None:
    """A call that would wait too long gets no reservation, and delays no other call."""
    pace = LeakyBucket(per_second=50, burst=3)

    assert [pace.reserve(NS, 50_000_000) for _ in range(7)] == [0, 0, 0, 20_000_000, 40_000_000, None, None]
    assert pace.reserve(NS + 20_000_000, 50_000_000) == 40_000_000
    assert [pace.reserve(3 * NS, 0) for _ in range(4)] == [0, 0, 0, None]
