"""The use case: one request to a provider, whatever its operation. The top layer of the domain."""
