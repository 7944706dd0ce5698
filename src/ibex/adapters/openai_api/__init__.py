"""A library for OpenAI's wire format: operations, raw JSON, and server-sent events."""
