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
import zoneinfo

NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000  # of Linux's unshare
# Events of Python's audit events table that a closed process is refused: names, and families, which end
# in a dot. What only reads is refused by its path, see `refusal`.
REFUSED = (
    "os.chdir", "os.chflags", "os.chmod", "os.chown", "os.exec", "os.fork", "os.forkpty", "os.getxattr",
    "os.kill", "os.killpg", "os.link", "os.listxattr", "os.lockf", "os.mkdir", "os.posix_spawn",
    "os.remove", "os.removexattr", "os.rename", "os.rmdir", "os.setxattr", "os.spawn", "os.symlink",
    "os.system", "os.truncate", "os.utime", "ensurepip.bootstrap", "pty.spawn", "urllib.Request",
    "webbrowser.open", "ctypes.", "fcntl.", "ftplib.", "http.client.", "imaplib.", "nntplib.",
    "poplib.", "resource.", "shutil.", "signal.", "smtplib.", "socket.", "sqlite3.", "subprocess.",
    "syslog.", "telnetlib.", "tempfile.",
)  # fmt: skip
READING = ("open", "os.listdir", "os.scandir")  # with the path as their first argument
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


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
    """Bound memory; where the setup says `closed`, take files, processes and the network away too.

    What is closed reads nothing but Python's own installation: what a fault says goes back to a client.
    """
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

    sys.addaudithook(refusal())


def refusal():
    """An audit hook that refuses what is `REFUSED`, writing, and reading outside Python's own files."""
    names, families = frozenset(REFUSED), tuple(name for name in REFUSED if name.endswith("."))
    reading, writing = READING, WRITING
    real, decode, sep = os.path.realpath, os.fsdecode, os.sep
    own = (sys.prefix, sys.base_prefix, os.path.dirname(os.__file__), *zoneinfo.TZPATH)
    roots = tuple(real(place).rstrip(sep) + sep for place in own)

    def outside(path):
        if type(path) is int:  # a file that is open
            return False
        return type(path) not in (str, bytes) or not (real(decode(path)) + sep).startswith(roots)

    def refuse(event, arguments):
        if event in reading:
            refused = outside(arguments[0]) or event == "open" and (arguments[2] or 0) & writing
        else:
            refused = event in names or event.startswith(families)
        if refused:
            raise PermissionError(f"a grader may not use {event}")

    return refuse


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
