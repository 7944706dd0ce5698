"""The HTTP content codings that ClickHouse's clients use, by their name in ``Content-Encoding``."""

from __future__ import annotations

import gzip
import importlib
import zlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class UnknownCodingError(Exception):
    """The content coding is not supported."""


class MalformedBodyError(Exception):
    """The body cannot be decoded with its content coding."""


def _optional(*names: str) -> Any:
    """Return the first of these modules that is installed, else None. For clickhouse-connect they are optional too."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


_lz4: Final = _optional("lz4.frame")
_zstd: Final = _optional("compression.zstd", "backports.zstd")


def _lz4_decompress(body: bytes) -> bytes:
    """Decompress a sequence of frames. Clients write one frame for each block."""
    parts = []
    while body:
        frame = _lz4.LZ4FrameDecompressor()
        parts.append(frame.decompress(body))
        if not frame.eof:
            raise EOFError
        body = frame.unused_data
    return b"".join(parts)


_DECODERS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "gzip": gzip.decompress,
    "deflate": zlib.decompress,
    **({"lz4": _lz4_decompress} if _lz4 else {}),
    **({"zstd": _zstd.decompress} if _zstd else {}),
}
_ENCODERS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    **({"lz4": _lz4.compress} if _lz4 else {}),
    **({"zstd": _zstd.compress} if _zstd else {}),
    "gzip": lambda body: gzip.compress(body, compresslevel=1),
    "deflate": lambda body: zlib.compress(body, level=1),
}


def decode(body: bytes, coding: str) -> bytes:
    """Return the decoded body. The codings "" and "identity" leave it unchanged.

    Raises ``UnknownCodingError`` and ``MalformedBodyError``.
    """
    if coding in {"", "identity"}:
        return body
    if coding not in _DECODERS:
        raise UnknownCodingError
    try:
        return _DECODERS[coding](body)
    except Exception as error:
        raise MalformedBodyError from error


def choose(accepted: str) -> str:
    """Return the first supported coding in an ``Accept-Encoding`` header, or "" if none is supported."""
    names = (part.partition(";")[0].strip().lower() for part in accepted.split(","))
    return next((name for name in names if name in _ENCODERS), "")


def encode(body: bytes, coding: str) -> bytes:
    """Encode a body with a coding that ``choose`` returned. The coding "" leaves it unchanged."""
    return _ENCODERS[coding](body) if coding else body
