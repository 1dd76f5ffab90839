"""Tools: told to the model, and its calls read out of what it writes.

A chat template that knows tools shows them its own way (`Template.prompt(tools=...)`); elsewhere a
system message does. Either way a call is `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`,
the form that most open models were trained on; a bare JSON object of that shape counts too. A call
that the client forces is held to the schema of the function's parameters while it is written.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rung.server.chat_schema import ChatMessage, Function, FunctionCall, told
from rung.types import Message

OPEN, CLOSE = "<tool_call>", "</tool_call>"


@dataclass(frozen=True)
class Call:
    """A call that the model made; `arguments` is JSON as text."""

    id: str
    name: str
    arguments: str

    def shown(self, index: int | None = None) -> dict[str, Any]:
        """As OpenAI writes it; `index` in a stream's delta."""
        function = {"name": self.name, "arguments": self.arguments}
        call = {"id": self.id, "type": "function", "function": function}
        return call if index is None else {"index": index, **call}


def instruction(functions: Sequence[Function]) -> str:
    """The system message for templates that know no tools."""
    listed = "\n".join(json.dumps(told(f)["function"], ensure_ascii=False) for f in functions)
    return (
        "You may call these functions, given as JSON schemas:\n"
        f"{listed}\n"
        "To call one, answer with nothing but\n"
        f'{OPEN}{{"name": NAME, "arguments": {{...}}}}{CLOSE}'
    )


def conversation(
    messages: Sequence[ChatMessage], functions: Sequence[Function], template_shows: bool
) -> list[Message]:
    """A client's messages as turns of text: calls and their results written out.

    Args:
        template_shows: the chat template shows the functions itself.
    """
    turns = [_turn(m) for m in messages]
    if functions and not template_shows:
        said = instruction(functions)
        if turns[0]["role"] in ("system", "developer"):
            turns[0] = {**turns[0], "content": f"{turns[0]['content']}\n\n{said}"}
        else:
            turns.insert(0, {"role": "system", "content": said})
    return turns


def _turn(message: ChatMessage) -> Message:
    if message.role in ("tool", "function"):
        # Few templates know the role; all know a user who reports.
        named = f" of {message.name}" if message.name else ""
        content = f"<tool_response>{message.text}</tool_response>"
        return {"role": "user", "content": f"The result{named}:\n{content}"}
    written = [f"{OPEN}{_call(c)}{CLOSE}" for c in message.calls]
    text = "\n".join([message.text, *written] if message.text else written)
    return {"role": message.role, "content": text or message.text}


def _call(call: FunctionCall) -> str:
    try:
        arguments = json.loads(call.arguments)
    except (ValueError, RecursionError):
        arguments = call.arguments
    return json.dumps({"name": call.name, "arguments": arguments}, ensure_ascii=False)


def schema(functions: Sequence[Function], forced: str | bool) -> dict[str, Any]:
    """What a forced call must look like."""
    chosen = [f for f in functions if forced is True or f.name == forced]
    shapes = [
        {
            "type": "object",
            "properties": {
                "name": {"const": f.name},
                "arguments": f.parameters or {"type": "object", "additionalProperties": False},
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for f in chosen
    ]
    # Definitions that parameters refer to must stand where `#/$defs` looks for them.
    shared: dict[str, Any] = {}
    for f in chosen:
        for key in ("$defs", "definitions"):
            shared.setdefault(key, {}).update((f.parameters or {}).get(key) or {})
    shared = {key: value for key, value in shared.items() if value}
    return {**(shapes[0] if len(shapes) == 1 else {"anyOf": shapes}), **shared}


def parse(text: str, names: Sequence[str]) -> tuple[str, list[Call]]:
    """What a model wrote -> (the text beside its calls, its calls).

    Args:
        names: functions that there are; a call of another one is text.
    """
    plain, calls, rest = [], [], text
    while (at := rest.find(OPEN)) >= 0:
        body, closed, after = rest[at + len(OPEN) :].partition(CLOSE)
        found = _read(body, names)
        if found is None:
            break
        plain.append(rest[:at])
        calls.append(found)
        rest = after if closed else ""
    plain.append(rest)
    if not calls and (whole := _read(text, names)) is not None:
        return "", [whole]
    left = "".join(plain)
    return (left.strip() if calls else left), calls


def _read(text: str, names: Sequence[str]) -> Call | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or value.get("name") not in names:
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return Call(f"call_{secrets.token_hex(12)}", value["name"], arguments)


class Holding:
    """Streams the text in front of a call, and holds back whatever may be one.

    `push` returns what is certain to be text; the rest waits for the end of the answer.
    """

    def __init__(self) -> None:
        self._held = ""
        self._begun = self._calls = False

    def push(self, text: str) -> str:
        self._held += text
        if not self._begun and self._held.strip():
            self._begun = True
            self._calls = self._held.lstrip().startswith("{")
        if self._calls or not self._begun:
            return ""
        at = self._held.find(OPEN)
        if at >= 0:
            self._calls = True
        else:
            at = len(self._held) - _overlap(self._held)
        given, self._held = self._held[:at], self._held[at:]
        return given

    @property
    def rest(self) -> str:
        """What was held back."""
        return self._held


def _overlap(text: str) -> int:
    """How much of the end of a text may begin a call."""
    longest = min(len(text), len(OPEN) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(OPEN[:n])), 0)
