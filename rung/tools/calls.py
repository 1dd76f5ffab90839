"""Calls of tools: their schema for constrained decoding, and how they are read out of a text.

A call is `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, the form that most open models
were trained on; a bare JSON object of that shape counts too.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rung.data.tool_calls import CLOSE, OPEN

DEFINITIONS = ("$defs", "definitions")  # where JSON schemas keep what they refer to


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

    @property
    def values(self) -> Any:
        """The arguments as data; None where they are no JSON."""
        try:
            return json.loads(self.arguments)
        except (ValueError, RecursionError):
            return None


def schema(functions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a call of one of these functions must look like.

    Args:
        functions: name, and parameters as a JSON schema or None for a function that takes nothing.
    """
    # Definitions that parameters refer to must stand where `#/$defs` looks for them.
    shared: dict[str, Any] = {key: {} for key in DEFINITIONS}
    shapes = []
    for number, f in enumerate(functions):
        given = _apart(f.get("parameters") or {}, shared, number)
        for key in DEFINITIONS:
            shared[key].update(given.get(key) or {})
        shapes.append({
            "type": "object",
            "properties": {
                "name": {"const": f["name"]},
                "arguments": given or {"type": "object", "additionalProperties": False},
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        })  # fmt: skip
    shared = {key: value for key, value in shared.items() if value}
    return {**(shapes[0] if len(shapes) == 1 else {"anyOf": shapes}), **shared}


def _apart(parameters: Mapping[str, Any], shared: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Parameters whose definitions have names of their own where one of another function differs.

    All of them, since those that are alike may refer to those that are not.
    """
    own = [(k, name, shape) for k in DEFINITIONS for name, shape in (parameters.get(k) or {}).items()]
    if all(shared[key].get(name, shape) == shape for key, name, shape in own):
        return dict(parameters)
    named = {f"#/{key}/{name}": f"#/{key}/{number}.{name}" for key, name, _ in own}

    def renamed(value: Any) -> Any:
        if isinstance(value, list):
            return [renamed(one) for one in value]
        if not isinstance(value, Mapping):
            return value
        made = {key: renamed(one) for key, one in value.items()}
        if isinstance(at := value.get("$ref"), str):
            whole = "/".join(at.split("/")[:3])
            made["$ref"] = named.get(whole, whole) + at.removeprefix(whole)
        return made

    found = renamed(parameters)
    for key, name, _ in own:
        found[key][f"{number}.{name}"] = found[key].pop(name)
    return found


def parse(text: str, names: Sequence[str] | None = None) -> tuple[str, list[Call]]:
    """What a model wrote -> (the text beside its calls, its calls).

    Args:
        names: functions that there are, None for any; a call of another one is text.
    """
    plain, calls, rest = [], [], text
    while (at := rest.find(OPEN)) >= 0:
        found, after = _led(rest[at + len(OPEN) :], names)
        if found is None:
            break
        plain.append(rest[:at])
        calls.append(found)
        rest = after
    plain.append(rest)
    if not calls and (whole := _read(text, names)) is not None:
        return "", [whole]
    left = "".join(plain)
    return (left.strip() if calls else left), calls


def _led(text: str, names: Sequence[str] | None) -> tuple[Call | None, str]:
    """The call that a text begins with, up to what closes it or the end, and what follows.

    Arguments may hold what closes a call.
    """
    body = text.lstrip()
    with suppress(ValueError, RecursionError):
        end = json.JSONDecoder().raw_decode(body)[1]
        behind = body[end:].lstrip()
        if not behind or behind.startswith(CLOSE):
            return _read(body[:end], names), behind.removeprefix(CLOSE)
    return None, text


def _read(text: str, names: Sequence[str] | None) -> Call | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    if names is not None and value["name"] not in names:
        return None
    if names is None and not {"arguments", "parameters"} & set(value):
        return None  # any object may have a name
    arguments = value.get("arguments", value.get("parameters", {}))
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return Call(f"call_{secrets.token_hex(12)}", value["name"], arguments)
