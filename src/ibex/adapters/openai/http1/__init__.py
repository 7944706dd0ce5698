"""An HTTP/1.1 client (RFC 9112) for one purpose: many small requests to one server, at the least cost (ADR 0025).

``connection`` talks on one connection, ``pool`` decides which one a request gets, ``tls`` proves who is at its other
end. Nothing in them awaits while it cleans up, so a cancellation, wherever it comes, leaves nothing behind.
"""
