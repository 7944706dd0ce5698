"""Redis: rate limits, and how fresh what is remembered of identity is (ADR 0044, ADR 0045)."""
