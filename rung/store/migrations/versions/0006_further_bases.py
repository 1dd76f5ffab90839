"""Further bases that a model stands on, such as the vision encoder that it sees through."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "model_bases",
        sa.Column(
            "model", sa.String(64), sa.ForeignKey("models.name", ondelete="CASCADE"), primary_key=True
        ),
        sa.Column("base", sa.String(128), sa.ForeignKey("bases.digest"), primary_key=True),
        sa.Column("place", sa.Integer, nullable=False),
    )
