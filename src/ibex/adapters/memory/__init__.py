"""In-memory adapters, for the embedded default and for processes without a shared store."""
