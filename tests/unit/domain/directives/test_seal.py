"""Sealed cache entries, which do not open after any change."""

from __future__ import annotations

from uuid import UUID

import pytest

from ibex.domain.directives.seal import Rejection, Seal, hkdf

ORG, AGENT, OTHER = UUID(int=1), UUID(int=2), UUID(int=3)
EPOCH, NOW_MS, TTL_MS = "an epoch", 1_700_000_000_000, 60_000
VALUE = b"Be kind."
SEAL = Seal(b"a service token of 32 characters")
SEALED = SEAL.close(ORG, AGENT, EPOCH, NOW_MS, VALUE)


def opened(
    sealed: bytes = SEALED,
    *,
    seal: Seal = SEAL,
    org_id: UUID = ORG,
    agent_id: UUID = AGENT,
    epoch: str = EPOCH,
    now_ms: int = NOW_MS,
) -> bytes | Rejection:
    """Open an entry in its own place, except for the given changes."""
    return seal.open(org_id, agent_id, epoch, now_ms, TTL_MS, sealed)


@pytest.mark.parametrize("value", [b"", VALUE, bytes(range(256)) * 256])
@pytest.mark.parametrize("epoch", ["", EPOCH, "\udcff of any bytes"])
def test_a_sealed_entry_opens(value: bytes, epoch: str) -> None:
    """It opens with any value and epoch."""
    assert opened(SEAL.close(ORG, AGENT, epoch, NOW_MS, value), epoch=epoch) == value


def test_an_entry_does_not_verify_in_another_place() -> None:
    """The HMAC covers organization, agent, epoch and key."""
    assert opened(org_id=OTHER) is Rejection.UNVERIFIED
    assert opened(agent_id=OTHER) is Rejection.UNVERIFIED
    assert opened(org_id=AGENT, agent_id=ORG) is Rejection.UNVERIFIED
    assert opened(epoch="another") is Rejection.UNVERIFIED
    assert opened(seal=Seal(b"another service token of 32 chars")) is Rejection.UNVERIFIED


@pytest.mark.parametrize("position", range(len(SEALED)))
def test_an_entry_with_a_changed_byte_does_not_verify(position: int) -> None:
    """The byte can belong to the format, the time of issue, the HMAC or the value."""
    changed = bytearray(SEALED)
    changed[position] ^= 1
    assert opened(bytes(changed)) is Rejection.UNVERIFIED


@pytest.mark.parametrize("length", range(len(SEALED)))
def test_a_truncated_or_extended_entry_does_not_verify(length: int) -> None:
    """The HMAC covers the whole value."""
    assert opened(SEALED[:length]) is Rejection.UNVERIFIED
    assert opened(SEALED + SEALED[:length] + b"\0") is Rejection.UNVERIFIED


def test_parts_with_the_same_concatenation_have_different_hmacs() -> None:
    """No byte can move from the epoch to the value or back."""
    sealed = SEAL.close(ORG, AGENT, "a", NOW_MS, b"bc")
    time, mac = sealed[:9], sealed[9:41]
    assert opened(time + mac + b"bc", epoch="a") == b"bc"
    assert opened(time + mac + b"c", epoch="ab") is Rejection.UNVERIFIED


@pytest.mark.parametrize(("late_ms", "counts"), [(0, True), (TTL_MS, True), (TTL_MS + 1, False), (-TTL_MS - 1, False)])
def test_an_entry_opens_only_during_its_lifetime(late_ms: int, counts: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """A replayed entry is a miss, even if the clocks of two workers differ."""
    assert opened(now_ms=NOW_MS + late_ms) == (VALUE if counts else Rejection.EXPIRED)


def test_the_name_of_an_entry_depends_on_epoch_and_key() -> None:
    """Workers with another key, as during a rotation, never read entries that they cannot verify."""
    names = {SEAL.name(EPOCH), SEAL.name("another"), Seal(b"another").name(EPOCH)}
    assert len(names) == 3
    assert SEAL.name(EPOCH) == Seal(b"a service token of 32 characters").name(EPOCH)
    assert {len(name) for name in names} == {32}


def test_the_repr_contains_neither_secret_nor_key() -> None:
    """Logs may contain the repr."""
    assert "canary" not in repr(Seal(b"canary"))
    assert hkdf(b"canary", b"directive cache 1").hex() not in repr(Seal(b"canary"))


def test_the_key_is_derived_by_hkdf() -> None:
    """The result equals that of the reference library."""
    kdf = pytest.importorskip("cryptography.hazmat.primitives.kdf.hkdf")
    hashes = pytest.importorskip("cryptography.hazmat.primitives.hashes")
    reference = kdf.HKDF(algorithm=hashes.SHA256(), length=32, salt=b"ibex", info=b"purpose").derive(b"secret")
    assert hkdf(b"secret", b"purpose") == reference


def test_a_replaced_secret_still_opens_its_entries() -> None:
    """So do secrets that other processes seal with. New entries are sealed with the new one."""
    seal = Seal(b"a service token of 32 characters")
    other = Seal(b"a third service token of 32 char").close(ORG, AGENT, EPOCH, NOW_MS, VALUE)
    seal.replace(b"another service token of 32 chars", b"a third service token of 32 char")

    assert opened(seal=seal) == opened(other, seal=seal) == VALUE
    sealed = seal.close(ORG, AGENT, EPOCH, NOW_MS, VALUE)
    assert opened(sealed, seal=Seal(b"another service token of 32 chars")) == VALUE
    assert opened(sealed) is Rejection.UNVERIFIED

    seal.replace(b"a fourth service token of 32 char")
    assert opened(seal=seal) is Rejection.UNVERIFIED
