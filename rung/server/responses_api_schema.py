"""What a request for a model response may say: OpenAI's `/v1/responses`.

Items, tools and formats that Rung does not act on are refused by their type.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from rung.server.chat_schema import (
    MAX_TOOLS,
    NAME,
    Function,
    JsonSchema,
    ObjectFormat,
    TextFormat,
)
from rung.server.errors import ApiError, not_supported
from rung.server.requests import INT64, Metadata, Strict

MAX_ITEMS = 4096  # of one request


def of_types(
    param: str, what: str, types: Collection[str], usual: str | None = None
) -> BeforeValidator:
    """Refuse an object of another type, naming that type.

    Args:
        param: named as the parameter at fault. what: what such objects are called.
        usual: the type of an object that does not say.
    """

    def check(given: Any) -> Any:
        kind = given.get("type", usual) if isinstance(given, dict) else usual
        if kind is None:
            kind = usual
        if isinstance(kind, str) and kind not in types:
            told = f"{what} of type '{kind[:80]}' are not supported yet"
            raise ApiError(told, param=param, code="not_supported")
        return given

    return BeforeValidator(check)


class Carrier(BaseModel):
    """A part of the input, as clients make it or as a response gave it.

    What it carries beside what is named here must be empty.
    """

    model_config = ConfigDict(strict=True, extra="allow")

    @model_validator(mode="after")
    def _carries_nothing_else(self) -> Carrier:
        for key, value in (self.model_extra or {}).items():
            if value not in (None, [], {}, False):
                raise ValueError(f"'{key[:80]}' is not supported yet")
        return self


class TextPart(Carrier):
    type: Literal["input_text", "output_text"]
    text: str


class RefusalPart(Carrier):
    type: Literal["refusal"]
    refusal: str

    @property
    def text(self) -> str:
        return self.refusal


def _parts(given: Any) -> Any:
    """A text that stands for one part; it is marked as input, whoever said it."""
    return [{"type": "input_text", "text": given}] if isinstance(given, str) else given


Part = Annotated[
    Annotated[TextPart | RefusalPart, Field(discriminator="type")],
    of_types("input", "parts", ("input_text", "output_text", "refusal")),
]
Parts = Annotated[
    list[Part], BeforeValidator(_parts, json_schema_input_type=str | list[TextPart | RefusalPart])
]
ItemStatus = Literal["in_progress", "completed", "incomplete"]


class MessageItem(Carrier):
    """A turn that somebody said."""

    type: Literal["message"] | None = None
    id: str | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: Parts
    status: ItemStatus | None = None
    phase: Literal["commentary", "final_answer"] | None = None

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.content)


class CallItem(Carrier):
    """A call that a model made; `arguments` is JSON as text."""

    type: Literal["function_call"]
    id: str | None = None
    call_id: str = Field(min_length=1, max_length=64)
    name: str = Field(pattern=NAME)
    arguments: str
    status: ItemStatus | None = None


class CallOutputItem(Carrier):
    """What a called function returned."""

    type: Literal["function_call_output"]
    id: str | None = None
    call_id: str = Field(min_length=1, max_length=64)
    output: Parts
    status: ItemStatus | None = None

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.output)


def _type_of(given: Any) -> Any:
    kind = given.get("type") if isinstance(given, dict) else getattr(given, "type", None)
    return "message" if kind is None else kind


def _items(given: Any) -> Any:
    """A text that stands for one message of the user."""
    return [{"type": "message", "role": "user", "content": given}] if isinstance(given, str) else given


Item = Annotated[
    Annotated[
        Annotated[MessageItem, Tag("message")]
        | Annotated[CallItem, Tag("function_call")]
        | Annotated[CallOutputItem, Tag("function_call_output")],
        Discriminator(_type_of),
    ],
    of_types("input", "items", ("message", "function_call", "function_call_output"), "message"),
]
Items = Annotated[
    list[Item],
    Field(min_length=1, max_length=MAX_ITEMS),
    BeforeValidator(_items, json_schema_input_type=str | list[MessageItem | CallItem | CallOutputItem]),
]


class FunctionTool(Function):
    type: Literal["function"]


class NamedTool(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    type: Literal["function"]
    name: str


class SchemaFormat(JsonSchema):
    type: Literal["json_schema"]


Format = Annotated[
    Annotated[TextFormat | ObjectFormat | SchemaFormat, Field(discriminator="type")],
    of_types("text.format", "formats", ("text", "json_object", "json_schema")),
]


class TextSettings(Strict):
    unsupported = {"verbosity": (("medium",), "say in the instructions how long an answer is to be")}

    format: Format | None = None
    verbosity: Any = None


class Reasoning(Strict):
    unsupported = {
        "effort": (("none",), "the models here do not reason apart from what they answer"),
        "summary": ((), "the models here do not reason apart from what they answer"),
        "generate_summary": ((), "the models here do not reason apart from what they answer"),
    }

    effort: Any = None
    summary: Any = None
    generate_summary: Any = None


class StreamSettings(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    include_obfuscation: bool | None = None  # events are never padded


class ModelResponseRequest(Strict):
    """What `POST /v1/responses` takes."""

    unsupported = {
        "access_programs": ((), "who may ask is settled by the key"),
        "background": ((False,), "answers are given at once or as a stream"),
        "context_management": (([],), "nothing is cut from a conversation"),
        "conversation": ((), "name the answer before in 'previous_response_id'"),
        "image": ((), "the models here make texts"),
        "include": (([],), "an answer holds all that there is"),
        "max_tool_calls": ((), "the client runs the tools, and may stop when it likes"),
        "moderation": ((), "ask /v1/moderations"),
        "prompt": ((), "this server keeps no templates of prompts: send the input itself"),
        "prompt_cache_options": ((), "which prefixes are cached is not for clients to say"),
        "prompt_cache_retention": (
            ("in_memory", "in-memory"), "prefixes are kept in memory as long as there is room"
        ),
        "top_logprobs": ((0,), "ask /v1/chat/completions for log-probabilities"),
        "truncation": (("disabled",), "a conversation that does not fit is refused, not cut"),
    }  # fmt: skip

    model: str
    input: Items
    instructions: str | None = None
    previous_response_id: str | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    text: TextSettings | None = None
    tools: list[Annotated[FunctionTool, of_types("tools", "tools", ("function",))]] | None = Field(
        None, max_length=MAX_TOOLS
    )
    tool_choice: (
        Annotated[
            Literal["none", "auto", "required"] | NamedTool,
            of_types("tool_choice", "choices of a tool", ("function",)),
        ]
        | None
    ) = None
    parallel_tool_calls: bool | None = None
    metadata: Metadata | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: StreamSettings | None = None
    reasoning: Reasoning | None = None
    # Not OpenAI's, but what chat completions take too.
    seed: int | None = Field(None, ge=-INT64, lt=INT64)
    top_k: int | None = Field(None, ge=0, lt=2**31)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    # Accepted without effect: they say who asks, not what is to be answered.
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: str | None = None
    # Known, and refused unless they ask for nothing.
    access_programs: Any = None
    background: Any = None
    context_management: Any = None
    conversation: Any = None
    image: Any = None
    include: Any = None
    max_tool_calls: Any = None
    moderation: Any = None
    prompt: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    top_logprobs: Any = None
    truncation: Any = None

    @model_validator(mode="before")
    @classmethod
    def _needs_input(cls, given: Any) -> Any:
        """Name what stands in for an input before its lack is told."""
        for name in ("prompt", "conversation") if isinstance(given, dict) else ():
            if given.get(name) is not None:
                raise not_supported(name, cls.unsupported[name][1])
        return given

    def check(self) -> None:
        """Refuse what would not be heeded.

        Raises:
            ApiError: naming the parameter.
        """
        self.refuse_unsupported()
        for name, part in (("text", self.text), ("reasoning", self.reasoning)):
            if part is not None:
                try:
                    part.refuse_unsupported()
                except ApiError as fault:
                    reason = part.unsupported[str(fault.param)][1]
                    raise not_supported(f"{name}.{fault.param}", reason) from None
        if self.stream_options is not None and not self.stream:
            raise ApiError("'stream_options' needs 'stream': true", param="stream_options")
