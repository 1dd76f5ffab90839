"""What model responses look like, for the description of the API; tests hold the answers to it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from rung.server.responses import Count, Moment, Shape

ItemStatus = Literal["in_progress", "completed", "incomplete"]


class OutputText(Shape):
    type: Literal["output_text"]
    text: str
    annotations: list[dict[str, Any]]
    logprobs: list[dict[str, Any]]


class OutputMessage(Shape):
    id: Annotated[str, Field(pattern="^msg_")]
    type: Literal["message"]
    status: ItemStatus
    role: Literal["assistant"]
    content: list[OutputText]


class OutputCall(Shape):
    id: Annotated[str, Field(pattern="^fc_")]
    type: Literal["function_call"]
    status: ItemStatus
    arguments: str
    call_id: str
    name: str


class FailureTold(Shape):
    code: Literal["server_error", "rate_limit_exceeded"]
    message: str


class IncompleteDetails(Shape):
    reason: Literal["max_output_tokens", "content_filter"]


class InputDetails(Shape):
    cached_tokens: Count
    cache_write_tokens: Count


class OutputDetails(Shape):
    reasoning_tokens: Count


class ResponseUsage(Shape):
    input_tokens: Count
    input_tokens_details: InputDetails
    output_tokens: Count
    output_tokens_details: OutputDetails
    total_tokens: Count


class TextTold(Shape):
    format: dict[str, Any]


class ModelResponse(Shape):
    """A model's answer to an input."""

    id: Annotated[str, Field(pattern="^resp_")]
    object: Literal["response"]
    created_at: Moment
    completed_at: Moment | None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    error: FailureTold | None
    incomplete_details: IncompleteDetails | None
    usage: ResponseUsage | None
    model: str
    output: list[OutputMessage | OutputCall]
    background: Literal[False]
    instructions: str | None
    max_output_tokens: Count | None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    previous_response_id: str | None
    store: bool
    temperature: float
    text: TextTold
    tool_choice: Literal["none", "auto", "required"] | dict[str, str]
    tools: list[dict[str, Any]]
    top_p: float
    truncation: Literal["disabled"]
    user: str | None


class ModelResponseDeleted(Shape):
    id: str
    object: Literal["response"]
    deleted: Literal[True]


class InputTokens(Shape):
    object: Literal["response.input_tokens"]
    input_tokens: int


class InputItem(Shape):
    """A message, a call of a function, or what it returned."""

    id: str
    type: Literal["message", "function_call", "function_call_output"]
    status: ItemStatus
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: list[dict[str, Any]] | None = None
    phase: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[dict[str, Any]] | None = None


class InputItems(Shape):
    object: Literal["list"]
    data: list[InputItem]
    first_id: str | None
    last_id: str | None
    has_more: bool
