"""Model responses that clients may continue."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "responses",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("created", sa.String(32), nullable=False),
        sa.Column("owner", sa.String(64)),
        sa.Column("response", sa.JSON, nullable=False),
        sa.Column("input", sa.JSON, nullable=False),
    )
    op.create_index("ix_responses_owner_created", "responses", ["owner", "created"])
