"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

COUNTER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    sources()
    results()


def sources() -> None:
    """What things are made from."""
    op.create_table(
        "bases",
        sa.Column("digest", sa.String(128), primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("licence", sa.Text, nullable=False),
        sa.Column("licence_class", sa.String(32), nullable=False),
        sa.Column("organisation", sa.Text, nullable=False),
        sa.Column("created", sa.String(32), nullable=False),
    )
    op.create_table(
        "datasets",
        sa.Column("digest", sa.String(128), primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("licence", sa.Text, nullable=False),
        sa.Column("licence_class", sa.String(32), nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("format", sa.String(64), nullable=False),
        sa.Column("created", sa.String(32), nullable=False),
    )


def results() -> None:
    """What was run, made and measured."""
    op.create_table(
        "runs",
        sa.Column("id", sa.String(128), primary_key=True),
        sa.Column("model", sa.String(64), nullable=False, index=True),
        sa.Column("parent", sa.String(64)),
        sa.Column("method", sa.String(64), nullable=False),
        sa.Column("objective", sa.String(64), nullable=False),
        sa.Column("status", sa.String(16), nullable=False, index=True),
        sa.Column("config", sa.JSON, nullable=False),
        sa.Column("base", sa.String(128), sa.ForeignKey("bases.digest")),
        sa.Column("data", sa.String(128), sa.ForeignKey("datasets.digest")),
        sa.Column("metrics", sa.JSON, nullable=False),
        sa.Column("cost", sa.JSON, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("pid", sa.BigInteger, nullable=False),
        sa.Column("started", sa.String(32), nullable=False, index=True),
        sa.Column("finished", sa.String(32)),
        sa.Column("heartbeat", sa.String(32), nullable=False),
    )
    op.create_table(
        "models",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("method", sa.String(64), nullable=False),
        sa.Column("base", sa.String(128), sa.ForeignKey("bases.digest"), nullable=False),
        sa.Column("parent", sa.String(64), sa.ForeignKey("models.name"), index=True),
        sa.Column("run", sa.String(128), sa.ForeignKey("runs.id")),
        sa.Column("folder", sa.Text, nullable=False),
        sa.Column("licence", sa.Text),
        sa.Column("licence_class", sa.String(32), nullable=False),
        sa.Column("metrics", sa.JSON, nullable=False),
        sa.Column("cost", sa.JSON, nullable=False),
        sa.Column("created", sa.String(32), nullable=False),
    )
    op.create_table(
        "model_datasets",
        sa.Column("model", sa.String(64), owner(), primary_key=True),
        sa.Column("dataset", sa.String(128), sa.ForeignKey("datasets.digest"), primary_key=True),
        sa.Column("place", sa.Integer, nullable=False),
    )
    op.create_table(
        "evaluations",
        sa.Column("id", COUNTER, primary_key=True, autoincrement=True),
        sa.Column("model", sa.String(64), owner(), index=True),
        sa.Column("base", sa.String(128), sa.ForeignKey("bases.digest"), index=True),
        sa.Column("dataset", sa.String(128), sa.ForeignKey("datasets.digest")),
        sa.Column("metric", sa.String(64), nullable=False),
        sa.Column("value", sa.Double, nullable=False),
        sa.Column("low", sa.Double),
        sa.Column("high", sa.Double),
        sa.Column("n", sa.BigInteger, nullable=False),
        sa.Column("created", sa.String(32), nullable=False),
        sa.CheckConstraint("(model IS NULL) <> (base IS NULL)", name="ck_evaluations_subject"),
    )


def owner() -> sa.ForeignKey:
    """What belongs to a model goes when it goes."""
    return sa.ForeignKey("models.name", ondelete="CASCADE")
