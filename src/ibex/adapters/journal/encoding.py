"""How an exchange lies in the journal: one MessagePack array of the encoding's version and the exchange's fields.

Fields are encoded by name, as the domain calls them. Unknown ones are passed over and absent ones take their default,
so that a field may be added to ``Exchange``, with a default, without a new version. Renaming or removing one needs a
new version beside the old, since a journal outlives the program that wrote it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ibex.domain.record.exchange import Exchange

VERSION: Final = 1


class UnreadableExchangeError(Exception):
    """Bytes in the journal are not an exchange of a version that this program knows. The message holds none of them."""


_encoder = msgspec.msgpack.Encoder(uuid_format="bytes")
_decoder = msgspec.msgpack.Decoder(tuple[int, msgspec.Raw])
_exchange_decoder = msgspec.msgpack.Decoder(Exchange)


def encode(exchange: Exchange) -> bytes:
    """Return the bytes that ``decode`` makes the same exchange of."""
    return _encoder.encode((VERSION, exchange))


def decode(encoded: bytes) -> Exchange:
    """Return the exchange. Raises ``UnreadableExchangeError``."""
    try:
        version, body = _decoder.decode(encoded)
        if version != VERSION:
            raise UnreadableExchangeError(f"an exchange in the journal has the unknown version {version}")
        return _exchange_decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise UnreadableExchangeError(f"an exchange in the journal cannot be read ({type(error).__name__})") from None
