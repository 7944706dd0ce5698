"""Tests of HTTP content codings."""

from __future__ import annotations

import pytest

from harness.content_codings import CODINGS, FRAMED
from ibex.adapters.clickhouse.content_coding import MalformedBodyError, UnknownCodingError, choose, decode, encode

BODY = b"a body " * 10_000


@pytest.mark.parametrize("coding", CODINGS)
def test_an_encoded_body_can_be_decoded(coding: str) -> None:
    """The encoded body is smaller."""
    encoded = encode(BODY, coding)
    assert len(encoded) < len(BODY) / 10
    assert decode(encoded, coding) == BODY


@pytest.mark.parametrize("coding", FRAMED)
def test_consecutive_frames_are_decoded_as_one_body(coding: str) -> None:
    """Some clients compress each block as a frame of its own."""
    assert decode(encode(BODY, coding) + encode(b"more", coding), coding) == BODY + b"more"


@pytest.mark.parametrize("coding", ["", "identity"])
def test_a_body_without_a_coding_is_unchanged(coding: str) -> None:
    """An absent coding means identity."""
    assert decode(BODY, coding) == BODY


def test_a_body_without_a_common_coding_is_unchanged() -> None:
    """Client and server share no coding."""
    assert encode(BODY, "") == BODY


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("damage", [b"not this at all", None])
def test_a_malformed_body_is_an_error(coding: str, damage: bytes | None) -> None:
    """The body was never in this coding, or it is truncated."""
    with pytest.raises(MalformedBodyError):
        decode(encode(BODY, coding)[:-9] if damage is None else damage, coding)


def test_an_unknown_coding_is_an_error() -> None:
    """An unknown coding is not guessed."""
    with pytest.raises(UnknownCodingError):
        decode(BODY, "snappy")


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [("zstd,lz4,br,gzip", "zstd"), ("br, GZIP;q=0.5", "gzip"), ("br, *", ""), ("", ""), ("zstd", "zstd")],
)
def test_the_first_common_coding_is_chosen(accepted: str, chosen: str) -> None:
    """The client's order applies."""
    assert choose(accepted) == chosen
