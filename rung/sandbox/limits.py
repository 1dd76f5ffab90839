"""Limit the process that this runs in; its text stands in front of every runner.

Nothing of Rung is imported here: `sandbox/process.py` gives the text to a fresh Python.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import struct
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
# Linux's Landlock, docs.kernel.org/userspace-api/landlock.html: system calls, and what each version of
# it (the first that knows it, bits) takes away of files, TCP, and signals and sockets beyond its own.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF, NO_NEW_PRIVILEGES = 444, 445, 446, 38
FILES, TCP, SCOPES = ((1, 13), (2, 1), (3, 1), (5, 1)), ((4, 2),), ((6, 2),)
READ_FILE, READ_FOLDER = 1 << 2, 1 << 3
LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/nix/store")


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
    """Take network and files away where the system lets us; refuse them by audit events in any case."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).unshare(NEW_USER | NEW_NETWORK)
    if sys.platform == "linux":
        confine((*own_files(), *LIBRARIES, "/etc/ld.so.cache"))
    sys.addaudithook(refusal())


def own_files():
    """Folders of Python itself, links resolved."""
    own = (sys.prefix, sys.base_prefix, os.path.dirname(os.__file__), *zoneinfo.TZPATH)
    return [os.path.realpath(place) for place in own]


def confine(readable):
    """Have the kernel refuse all files but those below `readable`, and TCP, for good: by Landlock.

    The audit hook sees what Python announces; this holds for what extension modules do as well.

    Returns:
        The kernel's version of Landlock, 0 where it has none.
    """
    call = ctypes.CDLL(None, use_errno=True).syscall
    version = max(0, call(CREATE_RULESET, None, ctypes.c_size_t(0), 1))
    if not version:
        return 0
    files, tcp, scopes = (
        (1 << sum(bits for since, bits in known if since <= version)) - 1
        for known in (FILES, TCP, SCOPES)
    )
    size = 8 if version < 4 else 16 if version < 6 else 24  # bytes that this version takes
    attributes = struct.pack("=QQQ", files, tcp, scopes)[:size]
    rules = call(CREATE_RULESET, attributes, ctypes.c_size_t(size), 0)
    if rules < 0:
        return 0
    for place in readable:
        with contextlib.suppress(OSError):
            at = os.open(place, os.O_PATH | os.O_CLOEXEC)
            allowed = READ_FILE | READ_FOLDER if os.path.isdir(place) else READ_FILE
            call(ADD_RULE, rules, 1, struct.pack("=Qi", allowed, at), 0)
            os.close(at)
    ctypes.CDLL(None).prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    refused = call(RESTRICT_SELF, rules, 0)
    os.close(rules)
    return 0 if refused else version


def refusal():
    """An audit hook that refuses what is `REFUSED`, writing, and reading outside Python's own files."""
    names, families = frozenset(REFUSED), tuple(name for name in REFUSED if name.endswith("."))
    reading, writing = READING, WRITING
    real, decode, sep = os.path.realpath, os.fsdecode, os.sep
    roots = tuple(place.rstrip(sep) + sep for place in own_files())

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
