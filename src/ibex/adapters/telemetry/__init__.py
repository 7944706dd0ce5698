"""Metrics, logs and OpenTelemetry spans."""
