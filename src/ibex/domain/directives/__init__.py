"""Directives: an agent's versioned instruction, its management, and its cache."""
