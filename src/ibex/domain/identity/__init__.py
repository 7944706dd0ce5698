"""Identity: organizations with their limits, agents, tokens and permissions; their management and their caches."""
