"""gRPC: the auth service, and the client that proxies call it with (ADR 0024)."""
