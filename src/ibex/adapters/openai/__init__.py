"""Providers: OpenAI's API over HTTP, and a built-in echo that responds in the same format."""
