"""Translates items of a model response's input to messages of a chat request, and keeps them."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from rung.server.chat_schema import ChatRequest
from rung.server.errors import ApiError, described
from rung.server.responses_api_schema import (
    CallItem,
    Item,
    MessageItem,
    ModelResponseRequest,
    NamedTool,
    SchemaFormat,
)

PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "response": "resp"}
# Parameters that the client knows by another name than chat completions have for them.
PARAMS = {"messages": "input", "response_format": "text.format"}

_ITEMS: TypeAdapter[list[Item]] = TypeAdapter(list[Item])


def fresh_id(kind: str) -> str:
    """Make the id of an item of that type."""
    return f"{PREFIXES[kind]}_{secrets.token_hex(24)}"


def read(items: Sequence[dict[str, Any]]) -> list[Item]:
    """Read kept items."""
    return _ITEMS.validate_python(list(items))


def kept(items: Iterable[Item], before: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Write items as they are kept and listed, each with an id of its own.

    Args:
        before: items in front of these, already written.
    """
    taken = {one["id"] for one in before}
    written = list(before)
    for item in items:
        one = item.model_dump(exclude_none=True, include=set(type(item).model_fields))
        kind = one["type"] = one.get("type", "message")
        for content in ("content", "output"):
            if content in one:
                one[content] = [_part(part, one.get("role")) for part in one[content]]
        if not one.get("id") or one["id"] in taken:
            one["id"] = fresh_id(kind)
        taken.add(one["id"])
        written.append({**one, "status": one.get("status", "completed")})
    return written


def _part(part: dict[str, Any], role: str | None) -> dict[str, Any]:
    """A part as it is kept: an assistant's text is output, whatever the client calls it."""
    if part["type"] == "refusal":
        return {"type": "refusal", "refusal": part["refusal"]}
    if role == "assistant":
        return {"type": "output_text", "text": part["text"], "annotations": [], "logprobs": []}
    return {"type": "input_text", "text": part["text"]}


def chat_request(asked: ModelResponseRequest, items: Sequence[Item]) -> ChatRequest:
    """Make the chat request that a model response is asked by.

    Args:
        items: the whole conversation.

    Raises:
        ApiError: for what no chat request may say, naming the parameter.
    """
    said: dict[str, Any] = {
        "model": asked.model, "messages": _messages(asked.instructions, items),
        "max_completion_tokens": asked.max_output_tokens, "temperature": asked.temperature,
        "top_p": asked.top_p, "seed": asked.seed, "top_k": asked.top_k, "min_p": asked.min_p,
        "repetition_penalty": asked.repetition_penalty, "stream": asked.stream,
        "parallel_tool_calls": asked.parallel_tool_calls,
    }  # fmt: skip
    form = asked.text.format if asked.text is not None else None
    if isinstance(form, SchemaFormat):
        schema = form.model_dump(by_alias=True, exclude={"type"})
        said["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif form is not None:
        said["response_format"] = form.model_dump()
    if asked.tools:
        functions = [tool.model_dump(exclude={"type"}) for tool in asked.tools]
        said["tools"] = [{"type": "function", "function": one} for one in functions]
    said["tool_choice"] = asked.tool_choice
    if isinstance(asked.tool_choice, NamedTool):
        named = {"name": asked.tool_choice.name}
        said["tool_choice"] = {"type": "function", "function": named}
    try:
        return ChatRequest(**said)
    except ValidationError as fault:
        message, param, code = described(fault.errors())
        raise ApiError(message, param=renamed(param), code=code) from None


def renamed(param: str | None) -> str | None:
    """The name that a parameter of chat completions has in a request for a model response."""
    return PARAMS.get((param or "").partition(".")[0], param)


def _messages(instructions: str | None, items: Sequence[Item]) -> list[dict[str, Any]]:
    """Messages of a chat; calls join the assistant's turn that they follow."""
    messages: list[dict[str, Any]] = []
    if instructions is not None:
        messages.append({"role": "system", "content": instructions})
    for item in items:
        if isinstance(item, MessageItem):
            messages.append({"role": item.role, "content": item.text})
        elif isinstance(item, CallItem):
            called = {"name": item.name, "arguments": item.arguments}
            call = {"id": item.call_id, "type": "function", "function": called}
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": None})
            messages[-1].setdefault("tool_calls", []).append(call)
        else:
            said = {"role": "tool", "content": item.text, "tool_call_id": item.call_id}
            messages.append(said)
    return messages
