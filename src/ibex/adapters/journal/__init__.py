"""The journal on local disk, in SQLite."""
