"""HTTP content codings."""

from __future__ import annotations

import pytest

from ibex.adapters.clickhouse.content_coding import MalformedBodyError, UnknownCodingError, choose, decode, encode

BODY = b"a body " * 10_000


@pytest.mark.parametrize("coding", ["lz4", "zstd", "gzip", "deflate"])
def test_what_is_encoded_is_decoded(coding: str) -> None:
    """And is smaller in between."""
    encoded = encode(BODY, coding)
    assert len(encoded) < len(BODY) / 10
    assert decode(encoded, coding) == BODY


@pytest.mark.parametrize("coding", ["lz4", "zstd", "gzip"])
def test_frames_that_follow_each_other_are_one_body(coding: str) -> None:
    """Clients compress block by block."""
    assert decode(encode(BODY, coding) + encode(b"more", coding), coding) == BODY + b"more"


@pytest.mark.parametrize("coding", ["", "identity"])
def test_no_coding_changes_nothing(coding: str) -> None:
    """Absent and identity are the same."""
    assert decode(BODY, coding) == BODY


def test_an_empty_choice_changes_nothing() -> None:
    """Where nothing in common was found, the body goes as it is."""
    assert encode(BODY, "") == BODY


@pytest.mark.parametrize("coding", ["lz4", "zstd", "gzip", "deflate"])
@pytest.mark.parametrize("damage", [b"not this at all", None])
def test_a_damaged_body_is_told(coding: str, damage: bytes | None) -> None:
    """Whether it never was in this coding or was cut short."""
    with pytest.raises(MalformedBodyError):
        decode(encode(BODY, coding)[:-9] if damage is None else damage, coding)


def test_an_unknown_coding_is_told() -> None:
    """It is not guessed at."""
    with pytest.raises(UnknownCodingError):
        decode(BODY, "snappy")


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [("lz4,zstd,br,gzip", "lz4"), ("br, GZIP;q=0.5", "gzip"), ("br, *", ""), ("", ""), ("zstd", "zstd")],
)
def test_the_first_that_both_know_is_chosen(accepted: str, chosen: str) -> None:
    """In the client's order."""
    assert choose(accepted) == chosen
