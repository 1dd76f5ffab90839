"""Limit the process that this runs in; its text stands in front of every runner.

Nothing of Rung is imported here: `sandbox/process.py` gives the text to a fresh Python.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import sys

NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000  # of Linux's unshare
REFUSED = ("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "ctypes.")


def answer_calls(begin):
    """Read calls as lines of JSON, the setup first, and answer each with one line.

    Args:
        begin: takes the setup within its limits; gives what is answered to it, and a function from a
            call to what is answered to that. What either raises is answered as `fault`.
    """
    calls, replies = pipes()

    def reply(call, **content):
        replies.write(json.dumps({"id": call["id"], **content}) + "\n")
        replies.flush()

    setup = json.loads(calls.readline())
    try:
        limit(setup)
        ready, answer = begin(setup)
    except BaseException as fault:
        reply(setup, fault=words(fault))
        return
    reply(setup, **ready)
    for line in calls:
        call = json.loads(line)
        try:
            reply(call, **answer(call))
        except BaseException as fault:
            reply(call, fault=words(fault))


def limit(setup):
    """Bound memory; where the setup says `closed`, take files, processes and the network away too."""
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


def pipes():
    """(calls, replies): the pipes to Rung, out of the way of whatever prints or reads in between."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    calls = os.fdopen(os.dup(0), encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    return calls, replies


def words(fault):
    """A fault in one line."""
    return f"{type(fault).__name__}: {fault}".replace("\n", " ")[:300]
