"""FAULT 41: kill -9 at any moment, twice in a row; the resumed run ends with the same bits.

`RUNG_KILLS` sets how many runs are killed; `make test-faults` takes 20.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from rung.artefacts import folders
from rung.store import Store
from tests.train.conftest import SCRATCH

KILLS = int(os.environ.get("RUNG_KILLS", "20"))
SETTINGS = [
    "--base", SCRATCH, "--method", "lora", "--dtype", "float32", "--epochs", "40", "--batch-size", "4",
    "--save-every", "5", "--lr", "1e-3", "--patience", "0", "--max-tokens", "4096",
]  # fmt: skip


def rung(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "rung.cli", *arguments],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.fixture
def pairs(tmp_path):
    """Two replies to each question, one of them liked."""
    rows = [
        {"prompt": f"Say {i}.", "chosen": f"It is {i}, surely.", "rejected": f"{i * i} of them?"}
        for i in range(40)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run_of(name):
    runs = Store.open().runs.list(model=name)
    return runs[0] if runs else None


def wait_for_steps(name, process, deadline=120):
    """Until the run writes its log, so that kills fall all over the training."""
    log = None
    until = time.monotonic() + deadline
    while process.poll() is None and time.monotonic() < until:
        run = run_of(name)
        log = run and folders.home.folder("runs") / run.id / "log.jsonl"
        if log and log.exists():
            return
        time.sleep(0.05)


def kill_somewhere(name, process, moments):
    wait_for_steps(name, process)
    time.sleep(moments.uniform(0, 3))
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_killed_runs_end_with_the_same_bits(objective, rung_home, quotes, pairs):
    moments = random.Random(int(os.environ.get("RUNG_SEED", "1")))
    data = str(pairs if objective == "dpo" else quotes)
    settings = ["--data", data, "--objective", objective, *SETTINGS]
    whole = rung("tune", "whole", *settings)
    assert whole.wait() == 0, whole.stderr.read()
    reference = (folders.model_folder("whole") / "adapter_model.safetensors").read_bytes()
    killed = 0
    for i in range(KILLS):
        name = f"killed{i}"
        kill_somewhere(name, rung("tune", name, *settings), moments)
        killed += run_of(name).status == "interrupted"
        if i % 3 == 0 and run_of(name).status == "interrupted":
            kill_somewhere(name, rung("resume", run_of(name).id), moments)
            killed += run_of(name).status == "interrupted"
        if run_of(name).status != "succeeded":
            again = rung("resume", run_of(name).id)
            assert again.wait() == 0, again.stderr.read()
        found = (folders.model_folder(name) / "adapter_model.safetensors").read_bytes()
        assert found == reference, f"run {i} ended with other weights"
    print(f"{objective}: {KILLS} runs, {killed} kills, all ended bit-equal")
    assert killed >= KILLS * 0.8
