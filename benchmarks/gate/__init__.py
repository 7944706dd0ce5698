"""Measures the definition of done (docs/performance.md) for `make exit-gate`."""
