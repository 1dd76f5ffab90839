"""Tools: told to the model, and its calls read out of what it writes.

A chat template that knows tools shows them its own way; elsewhere a system message does. Calls and
their results in a conversation are written out as in training rows (`rung.data.turns`). A call is
`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, the form that most open models were trained
on; a bare JSON object of that shape counts too. A call that the client forces is held to the schema of
the function's parameters while it is written.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rung.data.format_strings import Missing
from rung.data.turns import CLOSE, OPEN, told, turns, with_tools
from rung.server.chat_schema import ChatMessage, Function
from rung.server.errors import ApiError
from rung.types import Message


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


def conversation(messages: Sequence[ChatMessage], functions: Sequence[Function]) -> list[Message]:
    """Write a client's messages as turns of text, with what may be called beside them.

    Raises:
        ApiError: for a message that cannot be read as text.
    """
    try:
        read = turns([message.model_dump(exclude_none=True) for message in messages])
    except Missing as fault:
        raise ApiError(str(fault.args[0]), param="messages", code="invalid_value") from None
    return with_tools(read, [told(f.model_dump()) for f in functions])


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
