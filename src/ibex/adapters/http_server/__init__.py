"""The HTTP surface on Litestar: routes, headers, validation, envelopes."""
