"""Call metadata: the request id and the bearer credential."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ibex.domain.ids import parse_uuid

if TYPE_CHECKING:
    from collections.abc import Iterable
    from uuid import UUID

    Metadata = Iterable[tuple[str, str | bytes]]

REQUEST_ID_KEY: Final = "x-request-id"
AUTHORIZATION_KEY: Final = "authorization"
_SCHEME: Final = "bearer"


def request_id_in(metadata: Metadata) -> UUID | None:
    """Return the request id; None if the metadata has none, more than one, or one that is not a UUID."""
    return parse_uuid(_only(metadata, REQUEST_ID_KEY) or "")


def bearer_in(metadata: Metadata) -> str | None:
    """Return the bearer credential; None if the metadata has none, or more than one."""
    scheme, _, credential = (_only(metadata, AUTHORIZATION_KEY) or "").partition(" ")
    return credential.strip(" ") or None if scheme.lower() == _SCHEME else None


def _only(metadata: Metadata, key: str) -> str | None:
    values = [value for name, value in metadata if name == key]
    return values[0] if len(values) == 1 and isinstance(values[0], str) else None
