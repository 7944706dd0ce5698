"""OpenAI's API over HTTP, and the built-in echo that answers in its format."""
