"""Redis: rate limits, and how fresh what is remembered of identity is (spec 5, 6)."""
