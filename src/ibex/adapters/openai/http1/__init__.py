"""An HTTP/1.1 client (RFC 9112) for one purpose: many small requests to one server, at the least cost (ADR 0025).

``connection`` speaks HTTP on one connection, ``pool`` chooses the connection of a request, and ``tls`` verifies the
server. No clean-up awaits anything, so a cancellation at any point leaves nothing behind.
"""
