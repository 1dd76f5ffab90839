"""Run the functions of a Python file: tell their schemas, then answer calls with one text each.

Its text is run by `rung/sandbox/process.py` behind that of `limits.py`; nothing of Rung is imported.
"""

from __future__ import annotations

import enum
import importlib.util
import inspect
import json
import os
import re
import sys
import types
import typing

if (
    "answer_calls" not in globals()
):  # read as a module; where it is run, the text of limits.py stands before it
    from rung.sandbox.limits import answer_calls

PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
SECTION = re.compile(r"(Args|Arguments|Parameters|Returns|Raises|Yields|Examples?|Notes?):\s*")
ARGUMENT = re.compile(r"(?::param\s+(?:\S+\s+)?)?\*{0,2}(\w+)\s*(?:\([^)]*\))?:\s*(.*)")


def begin(setup):
    """Read the file: (the schemas of its functions, a function that makes a call)."""
    functions = load(setup["file"])

    def answer(call):
        found = functions[call["name"]](**call["arguments"])
        return {"result": shown(found, setup["characters"])}

    return {"functions": [describe(f) for f in functions.values()]}, answer


def load(file):
    """The public functions that a file defines itself, in their order: name -> function."""
    sys.path.insert(0, os.path.dirname(os.path.abspath(file)))
    spec = importlib.util.spec_from_file_location("tools", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tools"] = module  # where type hints are looked up
    spec.loader.exec_module(module)
    found = {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == "tools" and not name.startswith("_")
    }
    if not found:
        raise NameError(f"{os.path.basename(file)} defines no function whose name begins with a letter")
    return found


def describe(function):
    """Name, description and parameters of a function, from its signature and docstring."""
    hints = typing.get_type_hints(function, include_extras=True)
    summary, texts = documented(inspect.getdoc(function) or "")
    properties, required = {}, []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"{function.__name__}: '{name}' cannot be given by name")
        if name not in hints:
            raise TypeError(f"{function.__name__}: '{name}' has no type hint")
        try:
            properties[name] = schema(hints[name])
        except TypeError as fault:
            raise TypeError(f"{function.__name__}: '{name}' {fault}") from None
        if name in texts:
            properties[name]["description"] = texts[name]
        if parameter.default is parameter.empty:
            required.append(name)
    parameters = {"type": "object", "properties": properties, "required": required}
    return {
        "name": function.__name__,
        "description": summary,
        "parameters": {**parameters, "additionalProperties": False},
    }


def schema(hint):
    """A type hint as a JSON schema. Raises TypeError for one that has none."""
    if hint in PLAIN:
        return {"type": PLAIN[hint]}
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        texts = [text for text in inner[1:] if isinstance(text, str)]
        return {**schema(inner[0]), **({"description": texts[-1]} if texts else {})}
    if origin is typing.Literal:
        return {"enum": list(inner)}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [schema(one) for one in inner]}
    if origin is tuple and Ellipsis not in inner:
        places = {"prefixItems": [schema(one) for one in inner], "items": False}
        return {"type": "array", **places, "minItems": len(inner), "maxItems": len(inner)}
    if hint in (list, tuple, set) or origin in (list, tuple, set):
        some = [one for one in inner if one is not Ellipsis]
        return {"type": "array", **({"items": schema(some[0])} if some else {})}
    if hint is dict or origin is dict:
        return {"type": "object", **({"additionalProperties": schema(inner[1])} if inner else {})}
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        raise TypeError("is an Enum: write Literal of its values")
    raise TypeError(f"has a type that JSON knows nothing of: {hint}")


def documented(text):
    """A docstring -> (what stands before its sections, what it says of each argument)."""
    summary, texts, last, section = [], {}, None, ""
    for line in text.splitlines():
        heading = SECTION.fullmatch(line.strip())
        if heading:
            section, last = heading[1], None
            continue
        entry = ARGUMENT.fullmatch(line.strip())
        told = line.strip().startswith(":param") or section in ("Args", "Arguments", "Parameters")
        if entry and told:
            last = entry[1]
            texts[last] = entry[2]
        elif told and last and line.strip():
            texts[last] = f"{texts[last]} {line.strip()}".strip()
        elif not section:
            summary.append(line)
    return " ".join("\n".join(summary).split()), texts


def shown(value, most):
    """A result as one text of bounded length."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"{len(value)} bytes, which are no text"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    if len(text) > most:
        text = f"{text[:most]} [cut: {len(text)} characters in all]"
    return text


if __name__ == "__main__":
    answer_calls(begin)
