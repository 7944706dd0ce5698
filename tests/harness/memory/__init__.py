"""In-memory twins of the adapters, for tests. The contract suites run against them and against the real adapters."""
