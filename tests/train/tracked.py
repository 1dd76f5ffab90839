"""Tells a tracker of two steps and waits to be killed: python -m tests.train.tracked NAME FOLDER."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rung import trackers
from rung.trackers import TrackedRun

ROOT = Path(__file__).resolve().parents[2]
MAX_SECONDS = 60  # until what was told is seen
LOSSES = {1: 2.0, 2: 1.5}


def killed(
    name: str, folder: Path, seen: Callable[[], bool] = lambda: True, **environment: str
) -> None:
    """Start this process, and kill it once it has told its tracker, and that is `seen`."""
    command = [sys.executable, "-m", "tests.train.tracked", name, str(folder)]
    own = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    own.pop("WANDB_SERVICE", None)  # or it is W&B's process of the caller that writes
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=own) as process:
        assert process.stdout is not None and process.stdout.readline() == "told\n"
        until = time.monotonic() + MAX_SECONDS
        while not seen() and time.monotonic() < until:
            time.sleep(0.1)
        process.kill()


def run_of(folder: Path, at: int = 0) -> TrackedRun:
    folder.mkdir(exist_ok=True)
    settings = {"lr": 0.1, "base": "tiny", "method": "lora", "parent": None, "data": "rows.jsonl"}
    return TrackedRun(name="coach", id="abc123", folder=folder, settings=settings, at=at)


def main() -> None:
    name, folder = sys.argv[1:]
    tracker = trackers.make(name)
    tracker.open(run_of(Path(folder)))
    for step, loss in LOSSES.items():
        tracker.log(step, {"train/loss": loss})
    print("told", flush=True)
    time.sleep(600)


if __name__ == "__main__":
    main()
