"""Redis: rate limits, epochs that validate cached identity, and shared directives (ADR 0044, ADR 0045)."""
