"""Alembic's environment: runs the migrations on the connection that ``ibex.adapters.postgres.migrate`` passes."""

# ruff: noqa: INP001 - a folder of scripts that Alembic loads by path, no package

from __future__ import annotations

from alembic import context

from ibex.adapters.postgres.tables import METADATA

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=METADATA)
with context.begin_transaction():
    context.run_migrations()
