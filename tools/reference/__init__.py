"""The generator of pages in docs/reference, which describe what the code defines."""
