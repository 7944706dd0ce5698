"""The encoding of an exchange in the journal: a MessagePack array of the format version and the exchange's fields.

Fields are encoded by their names in ``Exchange``. The decoder ignores unknown fields, and absent ones get their
default, so a field with a default can be added without a new version. Renaming or removing a field needs a new version
beside the old one, because a journal outlives the program that wrote it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ibex.domain.record.exchange import Exchange

VERSION: Final = 1


class UnreadableExchangeError(Exception):
    """A row of the journal is not an exchange in a supported format version. The message contains none of its bytes."""


class NewerExchangeError(UnreadableExchangeError):
    """A newer version of IBEX encoded the exchange."""


_encoder = msgspec.msgpack.Encoder(uuid_format="bytes")
_decoder = msgspec.msgpack.Decoder(tuple[int, msgspec.Raw])
_exchange_decoder = msgspec.msgpack.Decoder(Exchange)


def encode(exchange: Exchange) -> bytes:
    """Return an exchange as bytes. ``decode`` returns an equal exchange for them."""
    return _encoder.encode((VERSION, exchange))


def version_of(encoded: bytes) -> int:
    """Return the format version of an encoded exchange, 0 if it is damaged."""
    try:
        version, _ = _decoder.decode(encoded)
    except msgspec.MsgspecError:
        return 0
    return version


def decode(encoded: bytes) -> Exchange:
    """Return the exchange that ``encode`` encoded. Raises ``UnreadableExchangeError``."""
    try:
        version, body = _decoder.decode(encoded)
        if version > VERSION:
            raise NewerExchangeError(f"an exchange in the journal has the newer format version {version}")
        if version != VERSION:
            raise UnreadableExchangeError(f"an exchange in the journal has the unsupported format version {version}")
        return _exchange_decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise UnreadableExchangeError(f"cannot decode an exchange in the journal ({type(error).__name__})") from None
