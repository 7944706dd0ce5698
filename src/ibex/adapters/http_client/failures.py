"""What sending a request and reading its response may raise."""

from __future__ import annotations

from typing import Final

import httpx


class UnreadableResponseError(Exception):
    """The body of a response is too large, badly compressed, or compressed in a way that was not asked for."""


FAILURES: Final = (httpx.TransportError, TimeoutError, UnreadableResponseError, OSError)
