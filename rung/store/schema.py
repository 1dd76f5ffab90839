"""The tables. A change here needs a migration in `migrations/versions` and a new `HEAD`."""

from __future__ import annotations

import json
import math
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    String,
    Text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# The newest migration. `database.open_engine` compares it with what the store holds, which saves
# importing alembic when there is nothing to do; a test holds it equal to alembic's own head.
HEAD = "0007"

# SQLite counts up only a column whose type is INTEGER.
Counter = BigInteger().with_variant(Integer, "sqlite")


class Table(DeclarativeBase):
    """What all tables share: how Python types are stored."""

    type_annotation_map = {dict[str, Any]: JSON, str: Text, float: Double}


class Base(Table):
    __tablename__ = "bases"

    digest: Mapped[str] = mapped_column(String(128), primary_key=True)
    name: Mapped[str]
    spec: Mapped[str]
    licence: Mapped[str]
    licence_class: Mapped[str] = mapped_column(String(32))
    organisation: Mapped[str]
    created: Mapped[str] = mapped_column(String(32))


class Dataset(Table):
    __tablename__ = "datasets"

    digest: Mapped[str] = mapped_column(String(128), primary_key=True)
    name: Mapped[str]
    source: Mapped[str]
    licence: Mapped[str]
    licence_class: Mapped[str] = mapped_column(String(32))
    rows: Mapped[int] = mapped_column(BigInteger)
    format: Mapped[str] = mapped_column(String(64))
    created: Mapped[str] = mapped_column(String(32))


class Run(Table):
    __tablename__ = "runs"
    __table_args__ = (Index("ix_runs_started", "started"),)

    id: Mapped[str] = mapped_column(String(128), primary_key=True)
    # A run names the model it makes and the one it starts from; both may be gone when it is read.
    model: Mapped[str] = mapped_column(String(64), index=True)
    parent: Mapped[str | None] = mapped_column(String(64))
    method: Mapped[str] = mapped_column(String(64))
    objective: Mapped[str] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(16), index=True)
    config: Mapped[dict[str, Any]]
    base: Mapped[str | None] = mapped_column(ForeignKey("bases.digest"))
    data: Mapped[str | None] = mapped_column(ForeignKey("datasets.digest"))
    metrics: Mapped[dict[str, Any]]
    cost: Mapped[dict[str, Any]]
    error: Mapped[str | None]
    host: Mapped[str]
    pid: Mapped[int] = mapped_column(BigInteger)
    started: Mapped[str] = mapped_column(String(32))
    finished: Mapped[str | None] = mapped_column(String(32))
    heartbeat: Mapped[str] = mapped_column(String(32))


class Model(Table):
    __tablename__ = "models"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    method: Mapped[str] = mapped_column(String(64))
    base: Mapped[str] = mapped_column(ForeignKey("bases.digest"))
    parent: Mapped[str | None] = mapped_column(ForeignKey("models.name"), index=True)
    run: Mapped[str | None] = mapped_column(ForeignKey("runs.id"))
    folder: Mapped[str]
    licence: Mapped[str | None]
    licence_class: Mapped[str] = mapped_column(String(32))
    metrics: Mapped[dict[str, Any]]
    cost: Mapped[dict[str, Any]]
    created: Mapped[str] = mapped_column(String(32))


class ModelDataset(Table):
    """Which data a model was made from, in order."""

    __tablename__ = "model_datasets"

    model: Mapped[str] = mapped_column(ForeignKey("models.name", ondelete="CASCADE"), primary_key=True)
    dataset: Mapped[str] = mapped_column(ForeignKey("datasets.digest"), primary_key=True)
    place: Mapped[int]


class ModelBase(Table):
    """Which bases a model stands on beside its own, in order."""

    __tablename__ = "model_bases"

    model: Mapped[str] = mapped_column(ForeignKey("models.name", ondelete="CASCADE"), primary_key=True)
    base: Mapped[str] = mapped_column(ForeignKey("bases.digest"), primary_key=True)
    place: Mapped[int]


class Evaluation(Table):
    __tablename__ = "evaluations"
    __table_args__ = (
        CheckConstraint("(model IS NULL) <> (base IS NULL)", name="ck_evaluations_subject"),
    )

    id: Mapped[int] = mapped_column(Counter, primary_key=True, autoincrement=True)
    model: Mapped[str | None] = mapped_column(ForeignKey("models.name", ondelete="CASCADE"), index=True)
    base: Mapped[str | None] = mapped_column(ForeignKey("bases.digest"), index=True)
    dataset: Mapped[str | None] = mapped_column(ForeignKey("datasets.digest"))
    metric: Mapped[str] = mapped_column(String(64))
    value: Mapped[float]
    low: Mapped[float | None]
    high: Mapped[float | None]
    n: Mapped[int] = mapped_column(BigInteger)
    created: Mapped[str] = mapped_column(String(32))


class Climb(Table):
    """One search for the cheapest rung that clears a bar. Its rungs make the scorecard."""

    __tablename__ = "climbs"
    __table_args__ = (Index("ix_climbs_started", "started"),)

    id: Mapped[str] = mapped_column(String(128), primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    task: Mapped[dict[str, Any]]
    data: Mapped[str | None] = mapped_column(ForeignKey("datasets.digest"), index=True)
    base: Mapped[str | None] = mapped_column(ForeignKey("bases.digest"))
    bar: Mapped[str | None]
    settings: Mapped[dict[str, Any]]
    status: Mapped[str] = mapped_column(String(16))
    verdict: Mapped[dict[str, Any]]
    host: Mapped[str]
    pid: Mapped[int] = mapped_column(BigInteger)
    started: Mapped[str] = mapped_column(String(32))
    finished: Mapped[str | None] = mapped_column(String(32))
    heartbeat: Mapped[str] = mapped_column(String(32))


class Rung(Table):
    """A method as a step of one climb: what was expected of it, and what it gave and cost."""

    __tablename__ = "rungs"

    climb: Mapped[str] = mapped_column(ForeignKey("climbs.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(128), primary_key=True)
    place: Mapped[int]
    method: Mapped[str] = mapped_column(String(64))
    settings: Mapped[dict[str, Any]]
    status: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str | None]
    # Both may be gone when the rung is read.
    run: Mapped[str | None] = mapped_column(String(128))
    model: Mapped[str | None] = mapped_column(String(64))
    predicted: Mapped[dict[str, Any]]
    metrics: Mapped[dict[str, Any]]
    cost: Mapped[dict[str, Any]]
    trials: Mapped[dict[str, Any]]


class RungItems(Table):
    """What was answered on a rung; apart from it, since a rung's row is written many times."""

    __tablename__ = "rung_items"
    __table_args__ = (
        ForeignKeyConstraint(["climb", "key"], ["rungs.climb", "rungs.key"], ondelete="CASCADE"),
    )

    climb: Mapped[str] = mapped_column(String(128), primary_key=True)
    key: Mapped[str] = mapped_column(String(128), primary_key=True)
    items: Mapped[dict[str, Any]]


class File(Table):
    """A file that a client uploaded, or that a job made; its bytes lie under `RUNG_HOME/files`."""

    __tablename__ = "files"
    __table_args__ = (Index("ix_files_created", "created"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str]  # what the client calls it; never part of a path
    purpose: Mapped[str] = mapped_column(String(32))
    stored: Mapped[str] = mapped_column(String(96))
    bytes: Mapped[int] = mapped_column(BigInteger)
    created: Mapped[str] = mapped_column(String(32))
    expires: Mapped[str | None] = mapped_column(String(32))
    owner: Mapped[str | None] = mapped_column(String(64))  # id of a key, which may be revoked


class Job(Table):
    """A tuning, climb or synthesis that a client asked for, which a worker carries out."""

    __tablename__ = "jobs"
    __table_args__ = (Index("ix_jobs_created", "created"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    status: Mapped[str] = mapped_column(String(24), index=True)
    model: Mapped[str]
    base: Mapped[str]
    # The model it makes and the file it trains on may be gone when it is read.
    name: Mapped[str] = mapped_column(String(64))
    suffix: Mapped[str | None] = mapped_column(String(64))
    training_file: Mapped[str] = mapped_column(String(64))
    validation_file: Mapped[str | None] = mapped_column(String(64))
    result_file: Mapped[str | None] = mapped_column(String(64))
    method: Mapped[dict[str, Any]]
    settings: Mapped[dict[str, Any]]
    hyperparameters: Mapped[dict[str, Any]]
    notes: Mapped[dict[str, Any]]
    seed: Mapped[int] = mapped_column(BigInteger)
    fine_tuned_model: Mapped[str | None]
    trained_tokens: Mapped[int | None] = mapped_column(BigInteger)
    error: Mapped[dict[str, Any]]
    made: Mapped[bool]
    host: Mapped[str]
    pid: Mapped[int] = mapped_column(BigInteger)
    attempts: Mapped[int]
    created: Mapped[str] = mapped_column(String(32))
    finished: Mapped[str | None] = mapped_column(String(32))
    estimate: Mapped[str | None] = mapped_column(String(32))
    kind: Mapped[str] = mapped_column(String(16), server_default="tune")
    climb: Mapped[str | None] = mapped_column(String(128))
    owner: Mapped[str | None] = mapped_column(String(64))


class JobEvent(Table):
    __tablename__ = "job_events"

    id: Mapped[int] = mapped_column(Counter, primary_key=True, autoincrement=True)
    job: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    level: Mapped[str] = mapped_column(String(8))
    kind: Mapped[str] = mapped_column(String(16))
    message: Mapped[str]
    data: Mapped[dict[str, Any]]
    created: Mapped[str] = mapped_column(String(32))


class JobCheckpoint(Table):
    """A state of a job's model that can be asked for; its folder lies within the run's."""

    __tablename__ = "job_checkpoints"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    job: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    step: Mapped[int] = mapped_column(BigInteger)
    model: Mapped[str]
    folder: Mapped[str]
    metrics: Mapped[dict[str, Any]]
    created: Mapped[str] = mapped_column(String(32))


class Key(Table):
    """Who may ask the server. The key itself is nowhere; its SHA-256 is."""

    __tablename__ = "keys"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    scopes: Mapped[str] = mapped_column(String(64))
    requests_per_minute: Mapped[int | None]
    tokens_per_minute: Mapped[int | None] = mapped_column(BigInteger)
    quota: Mapped[int | None] = mapped_column(BigInteger)
    used: Mapped[int] = mapped_column(BigInteger)
    created: Mapped[str] = mapped_column(String(32))
    last_used: Mapped[str | None] = mapped_column(String(32))
    revoked: Mapped[str | None] = mapped_column(String(32))


class ModelResponse(Table):
    """A model response that clients may continue, with all that went in."""

    __tablename__ = "responses"
    __table_args__ = (Index("ix_responses_owner_created", "owner", "created"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    created: Mapped[str] = mapped_column(String(32))
    owner: Mapped[str | None] = mapped_column(String(64))  # id of a key, which may be revoked
    response: Mapped[dict[str, Any]]
    input: Mapped[dict[str, Any]]


class Upload(Table):
    """A file that arrives in parts; the bytes of each lie under `RUNG_HOME/uploads`."""

    __tablename__ = "uploads"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    status: Mapped[str] = mapped_column(String(16))
    name: Mapped[str]
    purpose: Mapped[str] = mapped_column(String(32))
    bytes: Mapped[int] = mapped_column(BigInteger)
    mime: Mapped[str]
    lasts: Mapped[int | None] = mapped_column(BigInteger)  # seconds of the file, once it is made
    created: Mapped[str] = mapped_column(String(32))
    expires: Mapped[str] = mapped_column(String(32))
    file: Mapped[str | None] = mapped_column(String(64))
    owner: Mapped[str | None] = mapped_column(String(64))


class UploadPart(Table):
    __tablename__ = "upload_parts"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)  # also the name of its bytes
    upload: Mapped[str] = mapped_column(ForeignKey("uploads.id", ondelete="CASCADE"), index=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    created: Mapped[str] = mapped_column(String(32))


class Batch(Table):
    """Requests of a file that are answered in the background, each as if it had come by itself."""

    __tablename__ = "batches"
    __table_args__ = (Index("ix_batches_created", "created"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    status: Mapped[str] = mapped_column(String(16), index=True)
    endpoint: Mapped[str] = mapped_column(String(64))
    base: Mapped[str]
    input_file: Mapped[str] = mapped_column(String(64))
    stored: Mapped[str] = mapped_column(String(96))
    notes: Mapped[dict[str, Any]]
    model: Mapped[str | None]
    total: Mapped[int]
    completed: Mapped[int]
    failed: Mapped[int]
    output_file: Mapped[str | None] = mapped_column(String(64))
    error_file: Mapped[str | None] = mapped_column(String(64))
    errors: Mapped[dict[str, Any]]
    usage: Mapped[dict[str, Any]]
    lasts: Mapped[int | None] = mapped_column(BigInteger)  # seconds of what it leaves
    moments: Mapped[dict[str, Any]]
    created: Mapped[str] = mapped_column(String(32))
    expires: Mapped[str] = mapped_column(String(32))
    owner: Mapped[str | None] = mapped_column(String(64))
    key: Mapped[str | None] = mapped_column(String(64))
    claim: Mapped[str | None]  # of the process at work on it
    lease: Mapped[str | None] = mapped_column(String(32))  # until when that holds


def storable(value: Any) -> Any:
    """`value` as both databases and strict JSON can hold it.

    NaN and infinities become null, numbers from other libraries Python's own, NUL and lone
    surrogates (from odd file names) the replacement character, anything else its text.
    """
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, str):
        return str(value).replace("\0", "�").encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {storable(str(key)): storable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [storable(item) for item in value]
    if hasattr(value, "item") and getattr(value, "size", None) == 1:  # a scalar of numpy or torch
        return storable(value.item())
    return storable(str(value))


def to_json(value: Any) -> str:
    """How a JSON column is written."""
    return json.dumps(value, allow_nan=False, sort_keys=True)
