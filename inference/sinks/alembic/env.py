"""Alembic's environment: runs over the connection that `migrate` hands in, in its transaction."""

from alembic import context

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    version_table="alembic_version",
    version_table_schema="nightlabel",
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
