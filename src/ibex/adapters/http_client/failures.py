"""The exceptions that sending a request and reading its response can raise."""

from __future__ import annotations

from typing import Final

import httpx


class UnreadableResponseError(Exception):
    """The body of a response is too large, corrupt, or in an unsupported content coding."""


FAILURES: Final = (httpx.TransportError, TimeoutError, UnreadableResponseError, OSError)
