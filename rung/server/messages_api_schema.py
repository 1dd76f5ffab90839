"""What a request of Anthropic's Messages API may say, and the chat request that it stands for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rung.data.tool_calls import written_call
from rung.server.chat_schema import MAX_TOOLS, NAME, ChatRequest, Schema
from rung.server.errors import ApiError, described
from rung.server.requests import Stops, Strict

# Parameters of chat completions -> their names here.
PARAMS = {
    "max_completion_tokens": "max_tokens", "stop": "stop_sequences", "response_format": "output_config",
}  # fmt: skip
CACHED = ConfigDict(strict=True, extra="forbid")


class Block(BaseModel):
    """A piece of content that may be marked for a cache; prefixes are cached here in any case."""

    model_config = CACHED
    cache_control: dict[str, Any] | None = None


class TextBlock(Block):
    type: Literal["text"]
    text: str
    citations: Any = None


class PictureSource(BaseModel):
    """A picture in base64, or as a data: URL; nothing is fetched."""

    model_config = CACHED
    type: Literal["base64", "url"]
    media_type: Literal["image/png", "image/jpeg", "image/gif", "image/webp"] | None = None
    data: str | None = None
    url: str | None = None

    @model_validator(mode="after")
    def _has_what_it_says(self) -> PictureSource:
        needed = ("media_type", "data") if self.type == "base64" else ("url",)
        for name in ("media_type", "data", "url"):
            if (getattr(self, name) is not None) != (name in needed):
                word = "needs" if name in needed else "takes no"
                raise ValueError(f"a source of type '{self.type}' {word} '{name}'")
        return self

    @property
    def address(self) -> str:
        """The picture as a URL."""
        return self.url if self.url is not None else f"data:{self.media_type};base64,{self.data}"


class PictureBlock(Block):
    type: Literal["image"]
    source: PictureSource


class ThinkingBlock(Block):
    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class ToolUseBlock(Block):
    type: Literal["tool_use"]
    id: str
    name: str = Field(pattern=NAME)
    input: dict[str, Any]
    caller: Any = None


class ToolResultBlock(Block):
    type: Literal["tool_result"]
    tool_use_id: str
    content: str | list[TextBlock] | None = None
    is_error: bool | None = None


AnyBlock = Annotated[
    TextBlock | PictureBlock | ThinkingBlock | ToolUseBlock | ToolResultBlock,
    Field(discriminator="type"),
]


class Turn(BaseModel):
    """One turn of the conversation."""

    model_config = CACHED
    role: Literal["user", "assistant"]
    content: str | list[AnyBlock]


class Tool(Block):
    """A function that the client runs; tools that Anthropic's servers run are not known here."""

    type: Literal["custom"] | None = None
    name: str = Field(pattern=NAME)
    description: str | None = None
    input_schema: Schema
    strict: bool | None = None


class ToolChoice(BaseModel):
    model_config = CACHED
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Who(BaseModel):
    model_config = CACHED
    user_id: str | None = None


class CountRequest(Strict):
    """What `POST /v1/messages/count_tokens` takes."""

    unsupported = {
        "thinking": (({"type": "disabled"},), "the models here do not think apart from what they say"),
        "container": ((), "the server runs no tools"),
        "context_management": (({},), "nothing is cut from a conversation"),
        "mcp_servers": (([],), "the server runs no tools"),
        "output_config": (({},), "force a tool to get an answer of a given form"),
        "output_format": ((), "force a tool to get an answer of a given form"),
    }

    model: str
    messages: list[Turn] = Field(min_length=1, max_length=4096)
    system: str | list[TextBlock] | None = None
    tools: list[Tool] | None = Field(None, max_length=MAX_TOOLS)
    tool_choice: ToolChoice | None = None
    thinking: Any = None
    container: Any = None
    context_management: Any = None
    mcp_servers: Any = None
    output_config: Any = None
    output_format: Any = None
    # Marks a prefix for a cache, which is found here in any case.
    cache_control: dict[str, Any] | None = None

    def chat(self, **said: Any) -> ChatRequest:
        """Make the chat request that this one stands for.

        Raises:
            ApiError: for what no chat request may say, naming the parameter.
        """
        self.refuse_unsupported()
        messages = [{"role": "system", "content": _text(self.system)}] if self.system else []
        called: dict[str, str] = {}
        for turn in self.messages:
            messages += _messages(turn, called)
        chosen = self.tool_choice
        if chosen is not None and chosen.type == "tool" and not chosen.name:
            raise ApiError("'tool_choice' of type 'tool' needs 'name'", param="tool_choice")
        if chosen is not None:
            named = {"type": "function", "function": {"name": chosen.name}}
            words: dict[str, Any] = {"any": "required", "tool": named}
            said["tool_choice"] = words.get(chosen.type, chosen.type)
            said["parallel_tool_calls"] = not chosen.disable_parallel_tool_use
        if self.tools:
            said["tools"] = [{"type": "function", "function": _function(tool)} for tool in self.tools]
        try:
            return ChatRequest.model_validate({"model": self.model, "messages": messages, **said})
        except ValidationError as fault:
            message, param, code = described(fault.errors())
            raise ApiError(message, param=PARAMS.get(param or "", param), code=code) from None


class MessageRequest(CountRequest):
    """What `POST /v1/messages` takes."""

    unsupported = CountRequest.unsupported | {
        "service_tier": (("auto", "standard_only"), "there is one tier"),
        "inference_geo": ((), "the model runs where this server runs"),
        "speed": (("standard",), "there is one speed"),
    }

    max_tokens: int = Field(ge=1)
    stream: bool | None = None
    stop_sequences: Stops | None = None
    temperature: float | None = Field(None, ge=0, le=1)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=0, lt=2**31)
    metadata: Who | None = None  # says who asks, not what is to be answered
    service_tier: str | None = None
    inference_geo: Any = None
    speed: Any = None

    def chat(self, **said: Any) -> ChatRequest:
        """Make the chat request that this one stands for; raises as that of CountRequest."""
        return super().chat(
            max_completion_tokens=self.max_tokens, stream=self.stream, temperature=self.temperature,
            top_p=self.top_p, top_k=self.top_k, stop=list(self.stop_sequences or ()) or None, **said,
        )  # fmt: skip


def _function(tool: Tool) -> dict[str, Any]:
    return {
        "name": tool.name, "description": tool.description, "parameters": tool.input_schema,
        "strict": tool.strict,
    }  # fmt: skip


def _messages(turn: Turn, called: dict[str, str]) -> Iterator[dict[str, Any]]:
    """A turn as messages of a chat: each result of a tool is a message in front of what is said.

    Args:
        called: takes the function of each call by its id.
    """
    if isinstance(turn.content, str):
        yield {"role": turn.role, "content": turn.content}
        return
    calls: list[ToolUseBlock] = []
    said: list[TextBlock | PictureBlock] = []
    thoughts = []
    for block in turn.content:
        if isinstance(block, ToolResultBlock):
            text = _text(block.content or "")
            told = f"Error: {text}" if block.is_error else text
            result = {"tool_call_id": block.tool_use_id, "name": called.get(block.tool_use_id)}
            yield {"role": "tool", **result, "content": told}
        elif isinstance(block, ToolUseBlock):
            called[block.id] = block.name
            calls.append(block)
        elif isinstance(block, ThinkingBlock):
            thoughts.append(block.thinking)
        elif calls and turn.role == "assistant" and (isinstance(block, PictureBlock) or block.text):
            # A chat's message has its calls at its end: those in front of a text are written into it.
            lines = [*([""] if _content(said) else []), *map(_written, calls), ""]
            said += [TextBlock(type="text", text="\n".join(lines)), block]
            calls = []
        else:
            said.append(block)
    if not (said or calls or thoughts):
        return
    message: dict[str, Any] = {"role": turn.role, "content": _content(said) if said else None}
    if not said and not calls:
        message["content"] = ""
    if calls:
        message["tool_calls"] = [_call(one) for one in calls]
    if thoughts:
        message["reasoning_content"] = "\n".join(thoughts)
    yield message


def _call(block: ToolUseBlock) -> dict[str, Any]:
    function = {"name": block.name, "arguments": json.dumps(block.input, ensure_ascii=False)}
    return {"id": block.id, "type": "function", "function": function}


def _written(block: ToolUseBlock) -> str:
    return written_call({"name": block.name, "arguments": block.input})


def _content(blocks: Sequence[TextBlock | PictureBlock]) -> str | list[dict[str, Any]]:
    """Texts and pictures as a chat has them, in their order."""
    texts = [block for block in blocks if isinstance(block, TextBlock)]
    if len(texts) == len(blocks):
        return _text(texts)
    return [
        {"type": "text", "text": block.text} if isinstance(block, TextBlock)
        else {"type": "image_url", "image_url": {"url": block.source.address}}
        for block in blocks
    ]  # fmt: skip


def _text(content: str | Sequence[TextBlock]) -> str:
    return content if isinstance(content, str) else "".join(block.text for block in content)
