"""PostgreSQL: the schema and its migrations, identity, directives, sessions, and the change log."""
