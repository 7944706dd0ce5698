"""The HTTP server, on Litestar and uvicorn: connections, routes, headers, error envelopes."""
