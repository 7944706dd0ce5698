"""gRPC: the service that answers for identity, and the verifiers that ask it (ADR 0024)."""
