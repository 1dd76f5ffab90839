"""Jobs of several kinds, owners of jobs and files, and the items of rungs in a table of their own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("jobs") as jobs:
        jobs.add_column(sa.Column("kind", sa.String(16), nullable=False, server_default="tune"))
        jobs.add_column(sa.Column("climb", sa.String(128)))
        jobs.add_column(sa.Column("owner", sa.String(64)))
    with op.batch_alter_table("files") as files:
        files.add_column(sa.Column("owner", sa.String(64)))
    items()


def items() -> None:
    """Move what was answered on a rung out of its row, which is written many times.

    SQLite older than 3.35 drops a column by copying the table; what refers to its rows would go with
    the old one, so the new table is filled afterwards.
    """
    op.execute("CREATE TEMPORARY TABLE kept_items AS SELECT climb, key, items FROM rungs")
    with op.batch_alter_table("rungs") as rungs:
        rungs.drop_column("items")
    op.create_table(
        "rung_items",
        sa.Column("climb", sa.String(128), primary_key=True),
        sa.Column("key", sa.String(128), primary_key=True),
        sa.Column("items", sa.JSON, nullable=False),
        sa.ForeignKeyConstraint(["climb", "key"], ["rungs.climb", "rungs.key"], ondelete="CASCADE"),
    )
    op.execute("INSERT INTO rung_items (climb, key, items) SELECT climb, key, items FROM kept_items")
    op.execute("DROP TABLE kept_items")
