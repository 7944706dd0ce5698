"""Adapters of the operating system: the clock, and random identifiers."""
