"""FAULT 50: Ctrl-C at any stage ends with exit code 130, and a training can go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rung.store import Store
from tests.cli.conftest import SCRATCH, Ask

pytestmark = pytest.mark.faults

LONG = [
    "--base", SCRATCH, "--dtype", "float32", "--device", "cpu", "--epochs", "30", "--batch-size", "4",
    "--patience", "0", "--eval-every", "1000",
]  # fmt: skip


def start(*arguments: object, code: str = "") -> subprocess.Popen:
    """The command in a process of its own, after `code`."""
    program = ["-c", f"{code}\nfrom rung.cli import main\nmain()"] if code else ["-m", "rung.cli"]
    return subprocess.Popen(
        [sys.executable, *program, *map(str, arguments)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # Whoever runs the tests in a shell's background hands down an ignored SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def interrupt(process: subprocess.Popen) -> str:
    """Send Ctrl-C, check the code, and return what stderr said."""
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert not out and "Traceback" not in err
    return err


def until(done, process: subprocess.Popen, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_while_data_is_read(rung_home: Path) -> None:
    pipe = rung_home / "slow.jsonl"
    os.mkfifo(pipe)  # the reader waits for a writer, as it would for a slow disk
    process = start("tune", "x", "--data", pipe, *LONG)
    opened: list[int] = []

    def is_open() -> bool:
        try:
            opened.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:  # nobody reads yet
            return False
        return True

    until(is_open, process)
    # A signal between Python's last look and the system call would be seen after it: let it wait there.
    time.sleep(0.5)
    interrupt(process)
    os.close(opened[0])
    assert Store.open().runs.list() == []


def test_while_the_base_is_loaded(rung_home: Path, good: Path) -> None:
    mark = rung_home / "loading"
    slow = (
        "import time, pathlib, rung.bases\n"
        f"def load(*_, **__): pathlib.Path({str(mark)!r}).touch(); time.sleep(60)\n"
        "rung.bases.load = load"
    )
    process = start("tune", "x", "--data", good, *LONG, code=slow)
    until(mark.exists, process)
    interrupt(process)
    assert Store.open().runs.list() == []


def test_while_it_trains(rung_home: Path, good: Path, ask: Ask) -> None:
    process = start("tune", "x", "--data", good, *LONG, "--save-every", "100000")
    log = rung_home / "runs"
    until(lambda: any(log.glob("*/log.jsonl")), process)
    said = interrupt(process).splitlines()[-1]
    (run,) = Store.open().runs.list()
    assert said == f"interrupted; go on with: rung resume {run.id}"
    assert run.status == "interrupted"
    assert list((log / run.id / "checkpoints").iterdir())
    gone_on = ask("resume", run.id)
    assert gone_on.code == 0, gone_on
    assert "going on from step" in gone_on.err
    assert Store.open().runs.get(run.id).status == "succeeded"
    assert ask("show", "x").code == 0


def test_before_anything_is_asked(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rung.cli.usage.check_verb", pressed)
    said = ask("models")
    assert said.code == 130 and said.err.strip() == "rung: interrupted"
