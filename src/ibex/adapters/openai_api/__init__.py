"""A library for OpenAI's wire format: the operations, raw JSON, and server-sent events."""
