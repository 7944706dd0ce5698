"""Fixtures that start the real servers live in ``harness``, one module a server."""

pytest_plugins = ["harness.clickhouse", "harness.openai", "harness.postgres", "harness.redis"]
