"""What answers of syntheses look like, for the description of the API; tests hold the answers to it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from rung.server.responses import Count, JobError, Listing, Moment, Shape, Share
from rung.store.serving import JobStatus


class Diversity(Shape):
    """How different rows are: distinct 1-, 2- and 3-grams, nearest rows, topics that have a row."""

    distinct: list[Share]
    nearest_mean: float
    nearest_max: float
    covered: Count
    topics: Count
    evenness: float


class MadeRows(Shape):
    """What is told of written rows: terms, refused drafts by reason, tokens by teacher."""

    rows: Count
    kind: str
    licence: str
    licence_class: str
    reasons: list[str]
    refused: dict[str, Count]
    diversity: Diversity
    short: str | None
    tokens: dict[str, Count]


class Synthesis(Shape):
    id: Annotated[str, Field(pattern="^synthjob-")]
    object: Literal["rung.synthesis"]
    created_at: Moment
    finished_at: Moment | None
    estimated_finish: Moment | None
    status: JobStatus
    error: JobError | None
    model: str
    description: str
    name: str
    plan_only: bool
    topics: list[str] | None
    labels: list[str] | None
    settings: dict[str, Any]
    examples: Count
    rows: Count
    training_file: str | None
    result_files: list[str]
    made: MadeRows | None
    metadata: dict[str, str] | None


class SynthesisList(Listing):
    data: list[Synthesis]
