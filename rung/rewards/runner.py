"""Score answers in a process apart: read calls as lines of JSON and answer each with one line.

Its text is run by `sandbox.py`; nothing of Rung is imported here.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import inspect
import json
import os
import resource
import sys

NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000  # of Linux's unshare
REFUSED = ("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "ctypes.")


def main():
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the function prints must not come among the replies
    calls = os.fdopen(os.dup(0), encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)

    def reply(**content):
        replies.write(json.dumps(content) + "\n")
        replies.flush()

    setup = json.loads(calls.readline())
    try:
        limit(setup)
        function = load(setup)
        names = accepted(function)
    except BaseException as fault:
        reply(fault=words(fault))
        return
    reply(ready=True)
    for line in calls:
        arguments = json.loads(line)
        try:
            given = {k: v for k, v in arguments["named"].items() if names is None or k in names}
            reply(reward=figure(function(*arguments["plain"], **given)))
        except BaseException as fault:
            reply(fault=words(fault))


def limit(setup):
    size = setup["megabytes"] << 20
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if setup["closed"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        close()


def close():
    """Take the network away where the system lets us, and refuse sockets and processes in any case."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).unshare(NEW_USER | NEW_NETWORK)

    def refuse(event, arguments):
        writes = event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
        if writes or event.startswith(REFUSED):
            raise PermissionError(f"a grader may not use {event}")

    sys.addaudithook(refuse)


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


def words(fault):
    return f"{type(fault).__name__}: {fault}".replace("\n", " ")[:300]


if __name__ == "__main__":
    main()
