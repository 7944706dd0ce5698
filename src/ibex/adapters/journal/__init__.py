"""The adapter of the port ``Journal``: a SQLite file on local disk."""
