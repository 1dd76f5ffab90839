"""Messages to turns of text: one function for rows of data and for requests of clients.

    turns([{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [...]}])

Calls of tools are written out as `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, the form
that most open models were trained on, and their results as a user's report. What a message carries
is written into its turn, kept beside it (reasoning, weight), or named by `unread`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from rung.data.format_strings import Missing
from rung.errors import DataError
from rung.types import Message, Picture

SYSTEM = ("system", "developer")
OPEN, CLOSE = "<tool_call>", "</tool_call>"
_TAGS = re.compile(r"<(/?\s*tool_(?:call|response))", re.IGNORECASE)

ROLES = {
    "human": "user", "user": "user", "prompter": "user",
    "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant", "bing": "assistant",
    "bard": "assistant", "model": "assistant", "bot": "assistant",
    "system": "system", "developer": "system",
    "tool": "tool", "function": "tool", "observation": "tool", "tool_response": "tool",
    "ipython": "tool",
    "function_call": "call", "function-call": "call", "tool_call": "call",
    "function_response": "tool", "function-response": "tool",
}  # fmt: skip
PICTURES = ("image_url", "input_image")  # types of parts, in OpenAI's two APIs
MAX_PICTURES = 16  # of one message
# Thoughts in front of a reply, in the words of several vendors.
REASONING = ("reasoning_content", "reasoning", "thinking", "thought")
# What a turn of each role is made of; any other field that holds something is told. A reply's author
# is no part of what is learnt.
_ANY = {"role", "from", "content", "value"}
_SAID = {*_ANY, "name", "refusal"}
READ = {
    "system": _SAID,
    "user": _SAID,
    "assistant": {*_ANY, "refusal", "tool_calls", "function_call", "weight", *REASONING},
    "tool": {*_ANY, "name", "tool_call_id"},
    "call": _ANY,
}


def turns(value: Any, role_key: str = "role", content_key: str = "content") -> list[Message]:
    """A list of messages, in OpenAI's words or in ShareGPT's, as turns of text.

    Args:
        role_key, content_key: what the two are called.

    Raises:
        Missing: naming the message that cannot be read.
    """
    if not isinstance(value, (list, tuple)) or not value:
        raise Missing("no list of messages")
    called: dict[str, str] = {}  # id of a call -> its function
    result: list[Message] = []
    for i, message in enumerate(value, 1):
        if not isinstance(message, Mapping):
            raise Missing(f"message {i} is no object")
        said = message.get(role_key)
        role = ROLES.get(str(said).strip().lower())
        if role is None:
            raise Missing(f"message {i} has the {role_key} {said!r}")
        try:
            result.append(_turn(role, message, content_key, called))
        except Missing as fault:
            raise Missing(f"message {i}: {fault.args[0]}") from None
    return result


def unread(value: Any) -> set[str]:
    """The fields of messages that hold something and that no turn takes up."""
    found: set[str] = set()
    for message in value if isinstance(value, (list, tuple)) else ():
        if isinstance(message, Mapping):
            role = ROLES.get(str(message.get("role", message.get("from"))).strip().lower(), "user")
            taken = READ[role]
            empty: tuple[Any, ...] = (None, "", [], {}, False)
            found |= {str(k) for k, v in message.items() if k not in taken and v not in empty}
    return found


def _turn(role: str, message: Mapping[str, Any], key: str, called: dict[str, str]) -> Message:
    if role == "tool":
        return _result(message, key, called)
    if role == "call":  # ShareGPT's turn that is one call, written as JSON
        return {"role": "assistant", "content": _whole_call(message.get(key))}
    calls = _calls(message, called)
    if calls and role != "assistant":
        raise Missing(f"a {role} message calls tools")
    parts = [content_of(message.get(key)) if message.get(key) is not None else ""]
    if isinstance(message.get("refusal"), str):
        parts.append(message["refusal"])
    parts += calls
    if message.get(key) is None and not any(parts):
        raise Missing("a message whose content is no text: null")
    turn: Message = {"role": role, "content": "\n".join(p for p in parts if p)}
    if shown := pictures_of(message.get(key)):
        if role != "user":
            raise Missing(f"a {role} message shows a picture, and only users can")
        turn["pictures"] = shown
    if role == "assistant":
        thought = next((message[k] for k in REASONING if message.get(k)), None)
        if thought is not None:
            turn["reasoning_content"] = content_of(thought)
        if message.get("weight") is not None:
            turn["weight"] = _weight(message["weight"])
    elif message.get("name"):  # no template shows who of several speaks
        turn["content"] = f"{message['name']}: {turn['content']}"
    return turn


def _weight(value: Any) -> int:
    if isinstance(value, bool) or value not in (0, 1):
        raise Missing(f"weight is {json.dumps(value, default=str)}, must be 0 or 1")
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


def _calls(message: Mapping[str, Any], called: dict[str, str]) -> list[str]:
    listed = message.get("tool_calls") or []
    if not isinstance(listed, (list, tuple)):
        raise Missing("tool_calls is no list")
    written = []
    for call in listed:
        inner = call.get("function", call) if isinstance(call, Mapping) else None
        if isinstance(inner, Mapping) and isinstance(call, Mapping) and call.get("id"):
            called[str(call["id"])] = str(inner.get("name"))
        written.append(_call(inner))
    if message.get("function_call"):
        written.append(_call(message["function_call"]))
    return written


def _whole_call(value: Any) -> str:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise Missing("a call that is no JSON") from None
    calls = value if isinstance(value, list) else [value]
    return "\n".join(_call(c.get("function", c) if isinstance(c, Mapping) else c) for c in calls)


def _call(function: Any) -> str:
    """`{"name", "arguments"}` as models write it; arguments may be JSON as text.

    Raises:
        Missing: when it names no function.
    """
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise Missing("a call that names no function")
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str):
        with suppress(ValueError, RecursionError):
            arguments = json.loads(arguments)
    shown = {"name": function["name"], "arguments": {} if arguments is None else arguments}
    return f"{OPEN}{json.dumps(shown, ensure_ascii=False, default=str)}{CLOSE}"


def content_of(value: Any) -> str:
    """The text of a message's content: a string, or a list of parts as in OpenAI's API.

    Raises:
        Missing: when there is no text in it, or something beside text.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        return "".join(_part(p) for p in value)
    raise Missing(f"a message whose content is no text: {json.dumps(value, default=str)[:60]}")


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping):
        kind = str(part.get("type", "text"))
        if kind in PICTURES:
            return ""
        text = part.get("refusal") if kind == "refusal" else part.get("text")
        if kind in ("text", "input_text", "output_text", "refusal") and isinstance(text, str):
            return text
        if kind not in ("text", "refusal"):
            raise Missing(f"content of type '{kind[:40]}', and only text can be read")
    raise Missing(f"a message whose content is no text: {json.dumps(part, default=str)[:60]}")


def pictures_of(value: Any) -> tuple[Picture, ...]:
    """The pictures of a message's content, which are `data:` URLs; nothing is ever fetched.

    Raises:
        Missing: for another address, or a picture that cannot be read.
    """
    parts = value if isinstance(value, (list, tuple)) else ()
    found = [p for p in parts if isinstance(p, Mapping) and str(p.get("type")) in PICTURES]
    if len(found) > MAX_PICTURES:
        raise Missing(f"{len(found)} pictures in one message, at most {MAX_PICTURES} are read")
    return tuple(_picture(part, n) for n, part in enumerate(found, 1))


def _picture(part: Mapping[str, Any], number: int) -> Picture:
    from rung.pictures import reading

    told = part.get("image_url")
    url = told.get("url") if isinstance(told, Mapping) else told
    name = f"picture {number}"
    if not isinstance(url, str):
        raise Missing(f"{name} has no 'image_url' with a data: URL")
    try:
        return reading.picture(reading.of_url(url, name), name)[0]
    except DataError as fault:
        raise Missing(str(fault)) from None


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
        "parameters": function.get("parameters") or {"type": "object", "properties": {}},
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


def plain(messages: Sequence[Message], *beside: str) -> list[Message]:
    """Role and content alone, functions told in the system message, for whoever takes no more.

    Args:
        beside: further fields to keep where a turn has them.
    """
    kept = ("role", "content", *beside)
    return [{k: m[k] for k in kept if k in m} for m in instructed(messages)]  # type: ignore
