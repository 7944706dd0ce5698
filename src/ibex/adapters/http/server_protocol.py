"""uvicorn's HTTP protocol, with what ASGI lacks."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ibex.adapters.http.client import CUT


class CuttableHttpProtocol(HttpToolsProtocol):
    """Lets an application cut off a client that has stopped reading.

    Closing a connection first waits for what is still to be sent, which such a client never takes; this drops it.
    """

    def on_message_begin(self) -> None:
        """Begin a request; its scope gets the extension ``client.CUT``."""
        super().on_message_begin()
        self.scope["extensions"] = {CUT: self.transport.abort}  # type: ignore[dict-item]  # typed for its own extensions
