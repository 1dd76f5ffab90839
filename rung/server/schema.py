"""What a request may say: types and bounds as OpenAI publishes them.

A parameter that Rung does not act on yet is refused unless its value asks for nothing; an unknown one
is refused with the nearest known. Both would otherwise be answered as if they had been heeded.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from rung.errors import nearest
from rung.server.errors import ApiError, not_supported

MOST_STOPS = 4
LONGEST_STOP = 1024  # characters
MOST_ANSWERS = 256  # of one request
INT64 = 2**63

Prompt = str | tuple[int, ...]


def _stops(value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if texts is None:
        return ()
    if not isinstance(texts, (list, tuple)) or not all(isinstance(t, str) for t in texts):
        raise ValueError("must be a text or a list of texts")
    if len(texts) > MOST_STOPS:
        raise ValueError(f"holds {len(texts)} texts, at most {MOST_STOPS} are allowed")
    if any(not 1 <= len(t) <= LONGEST_STOP for t in texts):
        raise ValueError(f"each text must have 1 to {LONGEST_STOP} characters")
    return tuple(texts)


def _prompts(value: Any) -> tuple[Prompt, ...]:
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list) or not value:
        raise ValueError("must be a text, a list of texts, token ids or a list of those, and not empty")
    if _is_ids(value):
        return (tuple(value),)
    if len(value) > MOST_ANSWERS:
        raise ValueError(f"holds {len(value)} prompts, at most {MOST_ANSWERS} are allowed")
    if all(isinstance(p, str) for p in value):
        return tuple(value)
    if all(isinstance(p, list) and p and _is_ids(p) for p in value):
        return tuple(tuple(p) for p in value)
    raise ValueError("must hold only texts, only token ids, or only lists of token ids, none empty")


def _is_ids(value: list[Any]) -> bool:
    # Beyond 32 bits it is no token of any vocabulary, and would not fit a tensor.
    return all(type(i) is int and abs(i) < 2**31 for i in value)


Stops = Annotated[
    tuple[str, ...],
    BeforeValidator(_stops),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
Prompts = Annotated[
    tuple[Prompt, ...],
    BeforeValidator(_prompts),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array"}]}),
]


class Part(BaseModel):
    """A piece of a message's content."""

    model_config = ConfigDict(strict=True, extra="allow")
    type: Literal["text", "image_url", "input_audio", "file", "refusal"]
    text: str | None = None

    @model_validator(mode="after")
    def _has_text(self) -> Part:
        if self.type != "text":
            raise ValueError(f"content of type '{self.type}' is not supported yet")
        if self.text is None:
            raise ValueError("content of type 'text' needs 'text'")
        return self


class ChatMessage(BaseModel):
    """One turn. What it carries beside role, name and content must be empty."""

    model_config = ConfigDict(strict=True, extra="allow")
    role: Literal["developer", "system", "user", "assistant", "tool", "function"]
    content: str | list[Part]
    name: str | None = None

    @model_validator(mode="after")
    def _carries_nothing_more(self) -> ChatMessage:
        if self.role in ("tool", "function"):
            raise ValueError(f"the role '{self.role}' is not supported yet")
        for key, value in (self.model_extra or {}).items():
            if value not in (None, [], {}):
                raise ValueError(f"'{key[:80]}' is not supported yet")
        return self

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "".join(p.text or "" for p in self.content)


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # chunks are never padded


class Asked(BaseModel):
    """What chat and plain completions share."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    # Parameter -> the values that ask for nothing.
    unsupported: ClassVar[dict[str, tuple[Any, ...]]] = {}

    model: str
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    n: int | None = Field(None, ge=1, le=128)
    stop: Stops | None = None
    seed: int | None = Field(None, ge=-INT64, lt=INT64)
    max_tokens: int | None = Field(None, ge=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[Annotated[str, Field(pattern=r"^\d{1,9}$")], float] | None = None
    # Accepted without effect: they say who asks, not what is to be answered.
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _knows_every_parameter(cls, given: Any) -> Any:
        for name in given if isinstance(given, dict) else ():
            if name not in cls.model_fields:
                close = nearest(name, cls.model_fields)
                hint = close if "did you mean" in close else ""
                raise ApiError(
                    f"unknown parameter '{name[:80]}'{hint}", param=name[:80], code="unknown_parameter"
                )
        return given

    @property
    def includes_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def check(self) -> None:
        """Refuse what would not be heeded.

        Raises:
            ApiError: naming the parameter.
        """
        for name, neutral in self.unsupported.items():
            value = getattr(self, name)
            if value is not None and value not in neutral:
                raise not_supported(name)
        if self.stream_options is not None and not self.stream:
            raise ApiError("'stream_options' needs 'stream': true", param="stream_options")


class ChatRequest(Asked):
    unsupported = {
        "presence_penalty": (0,), "frequency_penalty": (0,), "logit_bias": ({},),
        "logprobs": (False,), "top_logprobs": (0,), "response_format": ({"type": "text"},),
        "tools": ([],), "tool_choice": ("none", "auto"), "parallel_tool_calls": (True, False),
        "functions": ([],), "function_call": ("none", "auto"), "modalities": (["text"],),
        "audio": (), "prediction": (), "reasoning_effort": (), "verbosity": (),
        "web_search_options": (),
    }  # fmt: skip

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: dict[str, Any] | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    functions: list[Any] | None = None
    function_call: Any = None
    modalities: list[str] | None = None
    audio: Any = None
    prediction: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None
    web_search_options: Any = None


class CompletionRequest(Asked):
    unsupported = {
        "presence_penalty": (0,), "frequency_penalty": (0,), "logit_bias": ({},),
        "logprobs": (), "echo": (False,), "best_of": (1,), "suffix": ("",),
    }  # fmt: skip

    prompt: Prompts
    logprobs: int | None = Field(None, ge=0, le=5)
    echo: bool | None = None
    best_of: int | None = Field(None, ge=1, le=20)
    suffix: str | None = None
