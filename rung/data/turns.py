"""Messages to turns of text: one function for rows of data and for requests of clients.

    turns([{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [...]}])

Calls of tools are written out as `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, the form
that most open models were trained on, and their results as a user's report. What a message carries
is written into its turn, kept beside it (reasoning, weight), or named by `unread`.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from rung.data.contents import content_of, picture_offsets, pictures_of, thoughts_of
from rung.data.format_strings import Missing
from rung.data.tool_calls import CLOSE, OPEN, Parts, calls_of, unread_fields, whole_call
from rung.types import Message

SYSTEM = ("system", "developer")
# Columns that hold a row's system message; the first that holds something is read.
SYSTEM_COLUMNS = (
    "system",
    "system_prompt",
    "system_message",
    "systemInstruction",
    "system_instruction",
)
_TAGS = re.compile(r"<(/?\s*tool_(?:call|response))", re.IGNORECASE)

ROLES = {
    "human": "user", "user": "user", "prompter": "user",
    "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant", "bing": "assistant",
    "bard": "assistant", "model": "assistant", "bot": "assistant", "ai": "assistant",
    "system": "system", "developer": "system",
    "tool": "tool", "function": "tool", "observation": "tool", "tool_response": "tool",
    "ipython": "tool",
    "function_call": "call", "function-call": "call", "tool_call": "call",
    "function_response": "tool", "function-response": "tool",
}  # fmt: skip
# Thoughts in front of a reply, in the words of several vendors.
REASONING = ("reasoning_content", "reasoning", "thinking", "thought")
# Whether a reply is learnt, in the words of several trainers: 0 or false says that it is context.
LEARNT = ("weight", "train", "training", "trainable", "loss")
# What holds a message's content, in the words of several vendors; the first that is there is read.
CONTENTS = ("content", "value", "parts", "text", "message")
# What a turn of each role is made of, beside its content; any other field that holds something is told.
# A reply's author is no part of what is learnt.
_ANY = {"role", "from"}
_SAID = {*_ANY, "name", "refusal"}
READ = {
    "system": _SAID,
    "user": _SAID,
    "assistant": {*_ANY, "refusal", "tool_calls", "function_call", *LEARNT, *REASONING},
    "tool": {*_ANY, "name", "tool_call_id"},
    "call": _ANY,
}
MAX_QUOTED_CHARACTERS = 1 << 20  # of messages that are written as Python writes lists


def turns(value: Any, role_key: str = "role", content_key: str = "content") -> list[Message]:
    """A list of messages, in OpenAI's words or in ShareGPT's, as turns of text.

    Args:
        role_key, content_key: what the two are called.

    Raises:
        Missing: naming the message that cannot be read.
    """
    value = listed(value)
    if not isinstance(value, (list, tuple)) or not value:
        raise Missing("no list of messages")
    parts = Parts()
    result: list[Message] = []
    for i, message in enumerate(value, 1):
        if not isinstance(message, Mapping):
            raise Missing(f"message {i} is no object")
        said = message.get(role_key)
        role = ROLES.get(str(said).strip().lower())
        if role is None:
            raise Missing(f"message {i} has the {role_key} {said!r}")
        try:
            key = content_field(message, content_key)
            for spoken, one in parts.unfold(role, message, key):
                result.append(_turn(spoken, one, content_key, parts.called))
        except Missing as fault:
            raise Missing(f"message {i}: {fault.args[0]}") from None
    return result


def listed(value: Any) -> Any:
    """A list of messages out of JSON, of what Python writes for a list, or of a list for each field.

    Cells of CSV hold the first two, tables the third. Anything else is given back as it is.
    """
    if isinstance(value, str) and re.match(r"\s*\[\s*\{", value):
        found = unquoted(value)
        # A text may well be a list of something else.
        said = isinstance(found, list) and all(
            isinstance(m, Mapping) and ("role" in m or "from" in m) for m in found
        )
        return found if said else value
    if isinstance(value, Mapping) and ("role" in value or "from" in value):
        cells = list(value.values())
        if all(isinstance(c, (list, tuple)) and len(c) == len(cells[0]) for c in cells):
            return [dict(zip(value, row, strict=True)) for row in zip(*cells, strict=True)]
    return value


def unquoted(text: str) -> Any:
    """The value that a text is as JSON, or as Python writes one; None for any other text."""
    with suppress(ValueError, RecursionError):
        return json.loads(text)
    if len(text) <= MAX_QUOTED_CHARACTERS:
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            return ast.literal_eval(text.strip())
    return None


def unread(value: Any) -> set[str]:
    """The fields of messages that hold something and that no turn takes up."""
    found: set[str] = set()
    value = listed(value)
    for message in value if isinstance(value, (list, tuple)) else ():
        if isinstance(message, Mapping):
            role = ROLES.get(role_of(message), "user")
            key = content_field(message, "content")
            taken = {*READ[role], key}
            found |= unread_fields(message.get(key))
            found |= {str(k) for k, v in message.items() if k not in taken and not _is_empty(v)}
    return found


def _is_empty(value: Any) -> bool:
    # 0 and false say something.
    return value is None or (isinstance(value, (str, list, tuple, Mapping)) and not value)


def role_of(message: Mapping[str, Any]) -> str:
    """The role of a message in its own word, under either name of the field."""
    return str(message.get("role", message.get("from"))).strip().lower()


def content_field(message: Mapping[str, Any], key: str = "content") -> str:
    """What holds the content of a message: `key`, or the first of the known names that it has."""
    return next((k for k in (key, *CONTENTS) if k in message), key)


def system_of(row: Mapping[str, Any]) -> str:
    """The system message that a row's column holds, as a text or in parts; "" where there is none.

    Raises:
        Missing: for a column that holds something else.
    """
    for name in SYSTEM_COLUMNS:
        value = row.get(name)
        if isinstance(value, Mapping):
            value = value.get(content_field(value, "content"))
        if not _is_empty(value):
            try:
                said = content_of(value)
            except Missing as fault:
                raise Missing(f"'{name}': {fault.args[0]}") from None
            if said.strip():
                return said
    return ""


def _turn(role: str, message: Mapping[str, Any], key: str, called: dict[str, str]) -> Message:
    key = content_field(message, key)
    if role == "tool":
        return _result(message, key, called)
    if role == "call":  # ShareGPT's turn that is one call, written as JSON
        return {"role": "assistant", "content": whole_call(message.get(key))}
    calls = calls_of(message, called)
    if calls and role != "assistant":
        raise Missing(f"a {role} message calls tools")
    parts = [content_of(message.get(key)) if message.get(key) is not None else ""]
    if isinstance(message.get("refusal"), str):
        parts.append(message["refusal"])
    parts += calls
    if key not in message and not any(parts):
        raise Missing(f"no '{key}'; its fields are {', '.join(map(str, message))}")
    if message.get(key) is None and not any(parts):
        raise Missing("a message whose content is no text: null")
    thoughts = thoughts_of(message.get(key))
    if thoughts and role != "assistant":
        raise Missing(f"a {role} message holds thoughts")
    turn: Message = {"role": role, "content": "\n".join(p for p in parts if p)}
    if shown := pictures_of(message.get(key)):
        if role != "user":
            raise Missing(f"a {role} message shows a picture, and only users can")
        turn["pictures"] = shown
        if any(offsets := picture_offsets(message.get(key))):
            turn["picture_offsets"] = offsets
    if role == "assistant":
        thought = next((message[k] for k in REASONING if message.get(k)), thoughts or None)
        if thought is not None:
            turn["reasoning_content"] = content_of(thought)
        weights = [_weight(k, message[k]) for k in LEARNT if message.get(k) is not None]
        if weights:
            turn["weight"] = min(weights)
    elif message.get("name"):  # no template shows who of several speaks
        told = f"{message['name']}: "
        turn["content"] = f"{told}{turn['content']}"
        if offsets := turn.get("picture_offsets", ()):  # those in front of all text stay there
            turn["picture_offsets"] = tuple(n + len(told) if n else 0 for n in offsets)
    return turn


def _weight(name: str, value: Any) -> int:
    said = "0 or 1" if name == "weight" else "true or false"
    if (name == "weight" and isinstance(value, bool)) or value not in (0, 1):
        raise Missing(f"{name} is {json.dumps(value, default=str)}, must be {said}")
    return int(value)


def _result(message: Mapping[str, Any], key: str, called: Mapping[str, str]) -> Message:
    # Few templates know the role; all know a user who reports.
    name = message.get("name") or called.get(str(message.get("tool_call_id")))
    value = message.get(key)
    try:
        said = "" if value is None else content_of(value)
    except Missing:
        said = json.dumps(value, ensure_ascii=False, default=str)
    return result_turn(said, name)


def result_turn(said: str, name: str | None = None) -> Message:
    """The result of a call as a turn. What it says is data: tags of calls and results in it are broken.

    Markers of the chat template are kept plain where the turn is encoded (`rung.data.encoding`).
    """
    named = f" of {name}" if name else ""
    said = _TAGS.sub(lambda found: f"< {found[1]}", said)
    content = f"The result{named}:\n<tool_response>{said}</tool_response>"
    return {"role": "user", "content": content, "result": True}


def functions(value: Any) -> tuple[Mapping[str, Any], ...]:
    """The tools of a row, in OpenAI's words; also functions without a wrapper, and either as JSON text.

    Raises:
        Missing: when they are no list of functions with a name.
    """
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise Missing("tools that are no JSON") from None
    if not value:
        return ()
    found = []
    for tool in value if isinstance(value, (list, tuple)) else [value]:
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise Missing("tools that name no function")
        found.append(told(function))
    return tuple(found)


def told(function: Mapping[str, Any]) -> dict[str, Any]:
    """A function as chat templates and prompts show it."""
    shown = {
        "name": function["name"],
        "description": function.get("description") or "",
        "parameters": function.get("parameters")
        or function.get("input_schema")  # what Anthropic calls it
        or {"type": "object", "properties": {}},
    }
    return {"type": "function", "function": shown}


def instruction(tools: Sequence[Mapping[str, Any]]) -> str:
    """The system message for templates that know no tools."""
    listed = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    return (
        "You may call these functions, given as JSON schemas:\n"
        f"{listed}\n"
        "To call one, answer with nothing but\n"
        f'{OPEN}{{"name": NAME, "arguments": {{...}}}}{CLOSE}'
    )


def with_tools(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> list[Message]:
    """The turns with the functions that may be called, kept beside the first that is no system message.

    They are told where the turns are rendered: by the chat template, or by `instructed`.
    """
    result = list(messages)
    at = next((i for i, m in enumerate(result) if m["role"] not in SYSTEM), None)
    if tools and at is not None:
        result[at] = {**result[at], "tools": tuple(tools)}
    return result


def tools_of(messages: Sequence[Message]) -> list[Mapping[str, Any]]:
    """The functions that the turns have beside them, one of each name."""
    found: dict[str, Mapping[str, Any]] = {}
    for message in messages:
        for tool in message.get("tools", ()):
            found.setdefault(str(tool["function"]["name"]), tool)
    return list(found.values())


def instructed(messages: Sequence[Message]) -> list[Message]:
    """The turns with the functions beside them told in the system message."""
    result = list(messages)
    tools = tools_of(messages)
    if not tools:
        return result
    said = instruction(tools)
    if result[0].get("role") in SYSTEM:
        result[0] = {**result[0], "content": f"{result[0]['content']}\n\n{said}"}
    else:
        result.insert(0, {"role": "system", "content": said})
    return result


def read_turn(value: Mapping[str, Any]) -> Message:
    """Read a turn that was kept as JSON, with all that a template may show of it.

    Raises:
        KeyError, TypeError: for what is no turn.
    """
    found: Message = {"role": str(value["role"]), "content": str(value["content"])}
    if value.get("name"):
        found["name"] = str(value["name"])
    if value.get("reasoning_content"):
        found["reasoning_content"] = str(value["reasoning_content"])
    if value.get("result"):
        found["result"] = True
    if value.get("tools"):
        found["tools"] = tuple(dict(tool) for tool in value["tools"])
    return found


def plain(messages: Sequence[Message], *beside: str) -> list[Message]:
    """Role and content alone, functions told in the system message, for whoever takes no more.

    Args:
        beside: further fields to keep where a turn has them.
    """
    kept = ("role", "content", *beside)
    return [{k: m[k] for k in kept if k in m} for m in instructed(messages)]  # type: ignore
