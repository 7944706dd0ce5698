"""Directives: the versioned instructions of agents, their management, and their caches."""
