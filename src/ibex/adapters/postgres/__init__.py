"""PostgreSQL: schema, identity, directives, sessions."""
