"""Alembic's entry: run the steps on the connection and in the transaction that the store holds."""

from __future__ import annotations

from alembic import context

from rung.store.schema import Table

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Table.metadata,
    transactional_ddl=True,
    # SQLite cannot alter most things in place; alembic then copies the table.
    render_as_batch=connection.dialect.name == "sqlite",
)
context.run_migrations()
