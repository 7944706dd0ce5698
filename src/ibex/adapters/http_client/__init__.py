"""A library: an HTTP client with connection pools, TLS, time limits and retries. It is independent of providers."""
