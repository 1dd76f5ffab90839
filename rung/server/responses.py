"""What answers look like, for the description of the API; tests hold the answers to it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from rung.store.serving import JobStatus

Count = Annotated[int, Field(ge=0)]
Moment = Annotated[int, Field(ge=0, description="Seconds since 1970.")]
Share = Annotated[float, Field(ge=0, le=1)]


class Shape(BaseModel):
    """Nothing is in an answer beside what is named."""

    model_config = ConfigDict(extra="forbid")


def answers(shape: type[BaseModel]) -> dict[str, Any]:
    """Arguments of a route that answers with this shape, and does not check itself doing it."""
    return {"response_model": None, "responses": {200: {"model": shape}}}


# --- completions ----------------------------------------------------------------------------------


class CachedTokens(Shape):
    cached_tokens: Count
    audio_tokens: Count


class DrawnTokens(Shape):
    """Of the completion's tokens; those of thoughts that are left out are not told apart."""

    reasoning_tokens: Count
    audio_tokens: Count
    accepted_prediction_tokens: Count
    rejected_prediction_tokens: Count


class Usage(Shape):
    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count
    prompt_tokens_details: CachedTokens
    completion_tokens_details: DrawnTokens


class CalledFunction(Shape):
    name: str
    arguments: str


class CalledTool(Shape):
    id: str
    type: Literal["function"]
    function: CalledFunction


class Said(Shape):
    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    tool_calls: list[CalledTool] = Field(default=[], json_schema_extra={"minItems": 1})
    function_call: CalledFunction | None = None


class LikelyToken(Shape):
    token: str
    logprob: Annotated[float, Field(le=0)]
    bytes: list[int] | None


class ToldToken(LikelyToken):
    top_logprobs: list[LikelyToken]


class ChatLogprobs(Shape):
    content: list[ToldToken]
    refusal: None


class ChatChoice(Shape):
    index: Count
    message: Said
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls", "function_call", "content_filter"]


class ChatCompletion(Shape):
    """An answer to a conversation."""

    id: str
    object: Literal["chat.completion"]
    created: Moment
    model: str
    system_fingerprint: str
    service_tier: Literal["default"]
    choices: Annotated[list[ChatChoice], Field(min_length=1)]
    usage: Usage
    trace: dict[str, Any] | None = None


class TextLogprobs(Shape):
    text_offset: list[Count]
    token_logprobs: list[Annotated[float, Field(le=0)] | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class TextChoice(Shape):
    text: str
    index: Count
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length", "content_filter"]


class TextCompletion(Shape):
    """Continuations of texts."""

    id: str
    object: Literal["text_completion"]
    created: Moment
    model: str
    system_fingerprint: str
    choices: Annotated[list[TextChoice], Field(min_length=1)]
    usage: Usage
    trace: dict[str, Any] | None = None


# --- vectors and verdicts -------------------------------------------------------------------------


class Embedding(Shape):
    object: Literal["embedding"]
    index: Count
    embedding: list[float] | str


class ReadTokens(Shape):
    prompt_tokens: Count
    total_tokens: Count


class Embeddings(Shape):
    object: Literal["list"]
    model: str
    data: Annotated[list[Embedding], Field(min_length=1)]
    usage: ReadTokens


class Score(Shape):
    index: Count
    object: Literal["score"]
    score: float


class Scores(Shape):
    id: str
    object: Literal["list"]
    created: Moment
    model: str
    data: Annotated[list[Score], Field(min_length=1)]
    usage: ReadTokens


class MapCandidate(Shape):
    id: str
    name: str
    confidence: Share


class MappedRecord(Shape):
    index: Count
    object: Literal["map"]
    match: str | None
    confidence: Share
    status: Literal["sure", "unsure", "none"]
    candidates: list[MapCandidate]


class Mapped(Shape):
    object: Literal["list"]
    model: str
    data: Annotated[list[MappedRecord], Field(min_length=1)]
    usage: ReadTokens


class Verdict(Shape):
    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, Share]
    category_applied_input_types: dict[str, list[Literal["text", "image"]]]


class Moderation(Shape):
    id: str
    model: str
    results: Annotated[list[Verdict], Field(min_length=1)]


# --- files ----------------------------------------------------------------------------------------


class File(Shape):
    id: str
    object: Literal["file"]
    bytes: Annotated[int, Field(ge=1)]
    created_at: Moment
    expires_at: Moment | None
    filename: str
    purpose: Literal[
        "assistants", "batch", "batch_output", "fine-tune", "fine-tune-results", "vision", "user_data",
        "evals",
    ]  # fmt: skip
    status: Literal["processed"]
    status_details: None


class Listing(Shape):
    object: Literal["list"]
    has_more: bool


class FileList(Listing):
    data: list[File]
    first_id: str | None
    last_id: str | None


class FileDeleted(Shape):
    id: str
    object: Literal["file"]
    deleted: Literal[True]


# --- tuning ---------------------------------------------------------------------------------------


class JobError(Shape):
    code: str
    message: str
    param: str | None


class Tuned(Shape):
    """OpenAI's three, as they came out."""

    n_epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]
    learning_rate_multiplier: Annotated[float, Field(gt=0)]


class Job(Shape):
    id: Annotated[str, Field(pattern="^ftjob-")]
    object: Literal["fine_tuning.job"]
    created_at: Moment
    finished_at: Moment | None
    estimated_finish: Moment | None
    error: JobError | None
    model: str
    fine_tuned_model: str | None
    organization_id: str
    status: JobStatus
    hyperparameters: Tuned
    method: dict[str, Any]
    training_file: str
    validation_file: str | None
    result_files: list[str]
    trained_tokens: Count | None
    seed: Count
    suffix: str | None
    metadata: dict[str, str] | None
    integrations: list[dict[str, Any]]


class JobList(Listing):
    data: list[Job]


class Figure(BaseModel):
    """What a rung scores on one part of the data, with its interval."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: Count | None = None


class RungSeconds(Shape):
    """Seconds of all expected requests, and of these with what making the model takes."""

    serving: float | None
    total: float | None


class ClimbRung(Shape):
    key: str
    method: str
    status: str
    reason: str | None
    model: str | None
    validation: Figure | None
    test: Figure | None
    seconds: RungSeconds
    predicted: bool


class Climb(Shape):
    id: Annotated[str, Field(pattern="^climbjob-")]
    object: Literal["rung.climb"]
    created_at: Moment
    finished_at: Moment | None
    estimated_finish: Moment | None
    status: JobStatus
    error: JobError | None
    model: str
    name: str
    training_file: str | None
    bar: str | None
    budget: str | None
    climb: str | None
    fine_tuned_model: str | None
    verdict: str | None
    metric: str | None
    rungs: list[ClimbRung] | None
    metadata: dict[str, str] | None


class ClimbList(Listing):
    data: list[Climb]


class Event(Shape):
    id: Annotated[str, Field(pattern="^ftevent-")]
    object: Literal["fine_tuning.job.event"]
    created_at: Moment
    level: Literal["info", "warn", "error"]
    type: Literal["message", "metrics"]
    message: str
    data: dict[str, Any] | None


class EventList(Listing):
    data: list[Event]


class CheckpointMetrics(Shape):
    """What OpenAI names, and whatever else the objective measures."""

    model_config = ConfigDict(extra="allow")

    step: Count
    train_loss: float | None = None
    train_mean_token_accuracy: Share | None = None
    valid_loss: float | None = None
    valid_mean_token_accuracy: Share | None = None
    full_valid_loss: float | None = None
    full_valid_mean_token_accuracy: Share | None = None


class Checkpoint(Shape):
    id: str
    object: Literal["fine_tuning.job.checkpoint"]
    created_at: Moment
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    step_number: Count
    metrics: CheckpointMetrics


class CheckpointList(Listing):
    data: list[Checkpoint]
    first_id: str | None
    last_id: str | None


class Health(Shape):
    status: Literal["ok"]
