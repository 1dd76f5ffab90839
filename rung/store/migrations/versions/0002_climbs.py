"""Climbs and their rungs: the scorecards."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "climbs",
        sa.Column("id", sa.String(128), primary_key=True),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("task", sa.JSON, nullable=False),
        sa.Column("data", sa.String(128), sa.ForeignKey("datasets.digest"), index=True),
        sa.Column("base", sa.String(128), sa.ForeignKey("bases.digest")),
        sa.Column("bar", sa.Text),
        sa.Column("settings", sa.JSON, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("verdict", sa.JSON, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("pid", sa.BigInteger, nullable=False),
        sa.Column("started", sa.String(32), nullable=False, index=True),
        sa.Column("finished", sa.String(32)),
        sa.Column("heartbeat", sa.String(32), nullable=False),
    )
    op.create_table(
        "rungs",
        sa.Column(
            "climb", sa.String(128), sa.ForeignKey("climbs.id", ondelete="CASCADE"), primary_key=True
        ),
        sa.Column("key", sa.String(128), primary_key=True),
        sa.Column("place", sa.Integer, nullable=False),
        sa.Column("method", sa.String(64), nullable=False),
        sa.Column("settings", sa.JSON, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text),
        # Both may be gone when the rung is read.
        sa.Column("run", sa.String(128)),
        sa.Column("model", sa.String(64)),
        sa.Column("predicted", sa.JSON, nullable=False),
        sa.Column("metrics", sa.JSON, nullable=False),
        sa.Column("cost", sa.JSON, nullable=False),
        sa.Column("trials", sa.JSON, nullable=False),
        sa.Column("items", sa.JSON, nullable=False),
    )
