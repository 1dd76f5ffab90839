"""Rewards in Python: limits hold, and whatever goes wrong is one answer that is not scored."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rung.errors import ConfigError
from rung.rewards import Answer, Context, make
from rung.rewards.sandbox import Sandbox
from rung.sandbox import limits

CODE = """
import os, sys, time

def f(text, gold=None, bonus=0):
    print("noise", flush=True)
    if text == "slow": time.sleep(60)
    if text == "huge": bytearray(8 << 30)
    if text == "gone": os._exit(3)
    if text == "none": return None
    if text == "odd": return float("nan")
    if text == "fault": raise KeyError("a\\nb")
    return len(text) + bonus
"""


def answer(text: str, **columns) -> Answer:
    return Answer(prompt=({"role": "user", "content": "q"},), text=text, columns=columns)


@pytest.fixture
def place(tmp_path):
    (tmp_path / "scoring.py").write_text(CODE)
    return tmp_path / "scoring.py"


def test_what_goes_wrong_is_not_scored_and_told_once(place):
    told: list[str] = []
    reward = make([f"python:{place}:f"], Context(note=told.append))
    reward.sandbox.seconds = 1.0
    texts = ["ab", "slow", "huge", "gone", "none", "odd", "fault", "fault", "abc"]
    assert reward.score([answer(t) for t in texts]) == [2, None, None, None, None, None, None, None, 3]
    reward.close()
    assert len(told) == 3 and any("longer than 1 s" in line for line in told)
    assert any("MemoryError" in line for line in told) and all("not scored" in line for line in told)


def test_columns_arrive_where_they_are_taken(place):
    reward = make([f"python:{place}:f"])
    assert reward.score([answer("ab", bonus=3, other=1)]) == [5.0]
    reward.close()


def sandbox(source: str) -> Sandbox:
    return Sandbox({"source": source, "function": "grade"}, closed=True, megabytes=512)


def test_source_alone_is_graded():
    box = sandbox("def grade(sample, item):\n    return sample['output_text'] == item['gold']")
    call = {"plain": [{"output_text": "a"}, {"gold": "a"}], "named": {}}
    assert box.score([call]) == [1.0]
    box.close()


@pytest.mark.parametrize(
    "body",
    [
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.system('true')",
        "open('left.txt', 'w')",
        "import ctypes; ctypes.CDLL(None)",
    ],
)
def test_a_closed_process_does_nothing_outside(body):
    box = sandbox(f"def grade(sample, item):\n    {body}\n    return 1.0")
    assert box.score([{"plain": [{}, {}], "named": {}}]) == [None] and box.faults
    box.close()


CALLS = {
    "os.remove": ("os.remove(here + '/kept.txt')", "pathlib.Path(here, 'kept.txt').unlink()"),
    "os.rename": (
        "os.rename(here + '/kept.txt', here + '/gone')", "os.replace(here + '/folder', here + '/b')",
    ),
    "os.truncate": ("os.truncate(here + '/kept.txt', 0)",),
    "os.rmdir": ("os.rmdir(here + '/folder')", "os.removedirs(here + '/folder')"),
    "os.mkdir": ("os.mkdir(here + '/new')", "os.makedirs(here + '/new/er')"),
    "os.chmod": ("os.chmod(here + '/kept.txt', 0)", "pathlib.Path(here, 'kept.txt').chmod(0)"),
    "os.chown": ("os.chown(here + '/kept.txt', -1, -1)", "os.lchown(here + '/kept.txt', -1, -1)"),
    "os.symlink": ("os.symlink(here + '/kept.txt', here + '/new')",),
    "os.link": ("os.link(here + '/kept.txt', here + '/new')",),
    "os.utime": ("os.utime(here + '/kept.txt', (1, 1))",),
    "os.setxattr": ("os.setxattr(here + '/kept.txt', 'user.a', b'1')",),
    "os.removexattr": ("os.removexattr(here + '/kept.txt', 'user.a')",),
    "os.listxattr": ("os.listxattr(here + '/kept.txt')",),
    "os.getxattr": ("os.getxattr(here + '/kept.txt', 'user.a')",),
    "os.chdir": ("os.chdir(here)",),
    "os.kill": ("os.kill(os.getppid(), 0)", "os.kill(os.getpid(), 0)"),
    "os.killpg": ("os.killpg(os.getpgrp(), 0)",),
    "signal.pthread_kill": ("signal.pthread_kill(threading.get_ident(), 0)",),
    "os.system": ("os.system('true')",), "os.fork": ("os.fork()",), "os.forkpty": ("os.forkpty()",),
    "os.exec": ("os.execv('/bin/true', ['true'])",),
    "os.posix_spawn": ("os.posix_spawn('/bin/true', ['true'], {})",),
    "subprocess.Popen": ("subprocess.run(['true'])",),
    "shutil.rmtree": ("shutil.rmtree(here + '/folder')",),
    "shutil.copyfile": ("shutil.copy(here + '/kept.txt', here + '/new')",),
    "shutil.copymode": ("shutil.copymode(here + '/kept.txt', here + '/folder')",),
    "shutil.copystat": ("shutil.copystat(here + '/kept.txt', here + '/folder')",),
    "shutil.copytree": ("shutil.copytree(here + '/folder', here + '/new')",),
    "shutil.move": ("shutil.move(here + '/kept.txt', here + '/new')",),
    "shutil.chown": ("shutil.chown(here + '/kept.txt', user=0)",),
    "shutil.make_archive": ("shutil.make_archive(here + '/new', 'zip', here)",),
    "shutil.unpack_archive": ("shutil.unpack_archive(here + '/kept.txt', here, 'zip')",),
    "tempfile.mkdtemp": ("tempfile.mkdtemp(dir=here)",),
    "tempfile.mkstemp": ("tempfile.mkstemp(dir=here)",),
    "sqlite3.connect": ("sqlite3.connect(here + '/new.db')",),
    "resource.setrlimit": ("resource.setrlimit(resource.RLIMIT_CORE, (0, 0))",),
    "socket.__new__": ("socket.socket()",),
    "open": (
        "open(here + '/kept.txt')", "pathlib.Path(here, 'kept.txt').read_text()", "os.open(here, 0)",
        "open(here + '/new', 'w')", "pathlib.Path(here, 'kept.txt').touch()",
        "open(here.encode() + b'/kept.txt', 'rb')", "os.open(here + '/new', os.O_CREAT)",
        "os.open(here + '/kept.txt', os.O_TRUNC)", "os.open(os.__file__, os.O_RDWR)",
        "open(sys.prefix + '/lib/../../../../../../../../../..' + here + '/kept.txt')",
    ),
    "os.listdir": ("os.listdir(here)", "os.listdir()"),
    "os.scandir": ("list(os.scandir(here))", "list(os.walk(here, onerror=refused))"),
}  # fmt: skip
TRYING = """
import os, pathlib, resource, shutil, signal, socket, sqlite3, subprocess, sys, tempfile, threading

def refused(fault): raise fault

def grade(sample, item):
    exec(item["body"], {**globals(), "here": item["here"]})
    return 1.0
"""


@pytest.fixture(scope="module")
def trying():
    box = sandbox(TRYING)
    yield box
    box.close()


def state(folder: Path) -> list:
    """What could have been changed in a folder."""
    found = []
    for path in sorted([folder, *folder.rglob("*")]):
        at = path.lstat()
        found.append((path, at.st_mode, at.st_nlink, at.st_uid, at.st_size, at.st_mtime_ns))
    return found


@pytest.mark.parametrize(
    ("event", "body"), [(event, body) for event, bodies in CALLS.items() for body in bodies]
)
def test_a_closed_process_touches_no_file_and_no_process(event, body, trying, tmp_path):
    (tmp_path / "kept.txt").write_text("a secret")
    (tmp_path / "folder").mkdir()
    before = state(tmp_path)
    assert trying.score([{"plain": [{}, {"body": body, "here": str(tmp_path)}], "named": {}}]) == [None]
    assert trying.faults == [f"failed: PermissionError: a grader may not use {event}"]
    assert state(tmp_path) == before and (tmp_path / "kept.txt").read_text() == "a secret"


def test_every_event_of_the_list_is_refused(trying):
    for name in limits.REFUSED:
        body = f"sys.audit('{name}of a family' if '{name}'.endswith('.') else '{name}')"
        assert trying.score([{"plain": [{}, {"body": body, "here": ""}], "named": {}}]) == [None]
        assert f"a grader may not use {name}" in trying.faults[0]


@pytest.mark.parametrize(
    "body",
    [
        "import difflib, decimal, statistics, yaml; yaml.safe_load('a: 1')",
        "import zoneinfo; zoneinfo.ZoneInfo('UTC')",
        "open(os.__file__).read(); pathlib.Path(os.__file__).open()",
        "os.close(os.open(pathlib.Path(os.__file__), 0))",
        "os.listdir(os.path.dirname(os.__file__)); list(os.scandir(pathlib.Path(os.__file__).parent))",
        "import random, secrets; secrets.token_hex(); random.Random().random()",
        "import inspect; inspect.getsource(shutil)",
    ],
)
def test_python_itself_can_be_read(body, trying):
    assert trying.score([{"plain": [{}, {"body": body, "here": ""}], "named": {}}]) == [1.0]


CONFINED = """
print("confined", confine([*own_files(), *LIBRARIES, "/etc/ld.so.cache"]))
for attempt in json.loads(sys.argv[1]):
    try: exec(attempt); print("done", attempt)
    except PermissionError: print("refused", attempt)
"""


def test_the_kernel_refuses_files_and_tcp_too(tmp_path):
    """Without the audit hook: what stands is what an extension module would meet."""
    (tmp_path / "kept.txt").write_text("a secret")
    refused = [
        f"open('{tmp_path}/kept.txt')", f"open('{tmp_path}/new', 'w')", f"os.listdir('{tmp_path}')",
        f"os.remove('{tmp_path}/kept.txt')", f"os.mkdir('{tmp_path}/new')", "open('/etc/passwd')",
        f"open('{tmp_path}/kept.txt', 'r+')", "os.execv('/bin/true', ['true'])",
        f"os.rename('{tmp_path}/kept.txt', '{tmp_path}/gone')", "open(os.__file__, 'r+')",
        "import socket; socket.create_connection(('127.0.0.1', 9))", "os.kill(os.getppid(), 0)",
    ]  # fmt: skip
    done = [
        "open(os.__file__).read()", "import ssl, hashlib, sqlite3",
        "import zoneinfo; zoneinfo.ZoneInfo('UTC')",
        "import decimal, random, yaml", "os.urandom(8)", "os.listdir(os.path.dirname(os.__file__))",
    ]  # fmt: skip
    source = Path(limits.__file__).read_text("utf-8") + CONFINED
    run = [sys.executable, "-c", source, json.dumps(refused + done)]
    said = subprocess.run(run, capture_output=True, text=True, check=True).stdout.splitlines()
    version = int(said[0].split()[1])
    if version < 6:
        pytest.skip(f"this kernel has version {version} of Landlock, 6 knows all that is tried here")
    assert said[1:] == [f"refused {attempt}" for attempt in refused] + [f"done {a}" for a in done]
    assert (tmp_path / "kept.txt").read_text() == "a secret"


def test_no_file_comes_back_in_what_a_grader_says(tmp_path):
    (tmp_path / "secret.txt").write_text("a secret")
    box = sandbox(
        f"try:\n    seen = open({str(tmp_path / 'secret.txt')!r}).read()\n"
        "except OSError as fault:\n    seen = str(fault)\n"
        "def grade(sample, item):\n    raise ValueError(seen)"
    )
    assert box.score([{"plain": [{}, {}], "named": {}}]) == [None]
    assert box.faults == ["failed: ValueError: a grader may not use open"]
    box.close()


def test_nothing_of_the_environment_is_seen(monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "secret")
    box = sandbox("import os\ndef grade(sample, item):\n    return float('SECRET_KEY' in os.environ)")
    assert box.score([{"plain": [{}, {}], "named": {}}]) == [0.0]
    box.close()


def test_source_that_is_no_python_is_told():
    with pytest.raises(ConfigError, match="cannot be loaded: SyntaxError"):
        sandbox("def grade(").start()
