"""Score answers in a process apart: read calls as lines of JSON and answer each with one line.

Its text is run by `rung/sandbox/process.py` behind that of `limits.py`; nothing of Rung is imported.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys

if (
    "answer_calls" not in globals()
):  # read as a module; where it is run, the text of limits.py stands before it
    from rung.sandbox.limits import answer_calls


def begin(setup):
    """Find the function: (that it is ready, a function that scores one answer)."""
    function = load(setup)
    names = accepted(function)

    def answer(call):
        given = {k: v for k, v in call["named"].items() if names is None or k in names}
        return {"reward": figure(function(*call["plain"], **given))}

    return {"ready": True}, answer


def load(setup):
    if "source" in setup:
        space = {"__name__": "grader"}
        exec(compile(setup["source"], "grader", "exec"), space)
    elif "file" in setup:
        sys.path.insert(0, os.path.dirname(os.path.abspath(setup["file"])))
        spec = importlib.util.spec_from_file_location("reward", setup["file"])
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        space = vars(module)
    else:
        sys.path.insert(0, os.getcwd())
        space = vars(importlib.import_module(setup["module"]))
    function = space.get(setup["function"])
    if function is None:
        raise NameError(f"there is no function '{setup['function']}'")
    if not callable(function):
        raise TypeError(f"'{setup['function']}' is no function")
    return function


def accepted(function):
    """Names of arguments that may be given by name; None where any may."""
    found = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in found):
        return None
    return {p.name for p in found if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}


def figure(value):
    if value is None:
        return None
    number = float(value)
    if number != number or number in (float("inf"), float("-inf")):
        raise ValueError(f"gave {number}, which is not finite")
    return number


if __name__ == "__main__":
    answer_calls(begin)
