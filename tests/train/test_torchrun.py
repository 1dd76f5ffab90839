"""Processes that torchrun started: the weights of one process, and what the user sees of their end."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from itertools import combinations_with_replacement, pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from rung import launch
from rung.artefacts import folders
from rung.errors import ConfigError, ProcessLost
from rung.forward.packing import cut, trie_tokens
from rung.launch import torchrun
from rung.train import checkpoint
from rung.train.plan import Plan
from tests.train.processes import train
from tests.train.test_kill import SETTINGS, run_of, wait_for_steps

STEPS, STOP = 20, 9
KILLED = int(os.environ.get("RUNG_KILLED_RANKS", "10"))  # trainings of which a process is killed
FAR = 1e-4  # of weights after some 500 steps, where rounding has grown
CLOSE = 1e-6  # float32 weights after 20 steps: sums in another order, and nothing else
METHODS = {"lora": {}, "full": {"lr": 2e-5}, "prompt_tuning": {}, "last_layers": {"lr": 3e-4}}


def training(name: str, method: str, **given):
    lr = {"lr": 1e-3, **METHODS[method]}
    return {"name": name, "method": method, "steps": STEPS, "epochs": 100, **lr, **given}


def together(count: int, folder: Path, trainings: Iterable[dict]) -> None:
    """Do trainings, one after the other, in processes that torchrun starts."""
    starting = ["-m", "torch.distributed.run", "--nproc-per-node", str(count), "--rdzv-endpoint",
                "localhost:0", "--rdzv-backend", "c10d", "--local-addr", "localhost"]  # fmt: skip
    own = ["-m", "tests.train.processes", str(folder), json.dumps(list(trainings))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, *starting, *own], env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr


def furthest(one: Path, other: Path) -> float:
    """The largest difference between two files of weights."""
    a, b = load_file(one), load_file(other)
    assert set(a) == set(b)
    return max(float((a[n] - b[n]).abs().max()) for n in a)


def check(folder: Path, methods: Iterable[str], counts: Iterable[int], goes_on: Iterable[int]) -> None:
    """Each method on one and on several processes; what two stopped goes on with other counts.

    One process is this one, without a launcher.
    """

    def train_on(count: int, trainings: list[dict]) -> None:
        if count > 1:
            together(count, folder, trainings)
        else:
            for one in trainings:
                train(folder, one)

    for count in {1, *counts}:
        whole = [training(f"{method}-{count}", method) for method in methods]
        stopped = [training(f"{m}-by-{n}", m, stop=STOP) for m in methods for n in goes_on]
        train_on(count, whole + (stopped if count == 2 else []))
    for method in methods:
        for count in goes_on:
            kept, _ = checkpoint.newest(folder / f"{method}-by-{count}" / "checkpoints")
            assert 0 < kept.state.step < STEPS
    for count in goes_on:
        train_on(count, [training(f"{method}-by-{count}", method) for method in methods])
    for method in methods:
        first = folder / f"{method}-1.safetensors"
        for other in [*counts, *(f"by-{count}" for count in goes_on)]:
            far = furthest(first, folder / f"{method}-{other}.safetensors")
            assert far <= CLOSE, f"{method}, {other}: {far}"


def test_two_processes_make_the_weights_of_one_and_one_goes_on(tmp_path):
    check(tmp_path, ["lora", "full"], [2], [1])


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_count_makes_the_weights_of_one_and_goes_on_with_another(tmp_path):
    check(tmp_path, list(METHODS), [2, 3], [1, 3])


@pytest.mark.slow
def test_a_base_that_is_sharded_over_two_makes_the_weights_of_one(tmp_path):
    for method in METHODS:
        train(tmp_path, training(f"{method}-whole", method))
    again = [training(f"{m}-again", m, shard=True, recompute="on") for m in METHODS]
    together(2, tmp_path, [*(training(f"{m}-parts", m, shard=True) for m in METHODS), *again])
    for method in METHODS:
        own = tmp_path / f"{method}-whole.safetensors"
        for kind in ("parts", "again"):
            assert furthest(own, tmp_path / f"{method}-{kind}.safetensors") <= CLOSE, (method, kind)


def test_a_base_is_sharded_by_a_launch_of_several_processes_alone():
    with pytest.raises(ConfigError, match="--shard is for .* add --launch torchrun"):
        Plan.of("a", {"data": "rows", "shard": True})
    with pytest.raises(ConfigError, match="--shard and --quantize do not go together"):
        Plan.of("a", {"data": "rows", "shard": True, "launch": "torchrun", "quantize": "int8"})


words = st.lists(st.integers(0, 2), min_size=1, max_size=8)


@given(st.lists(words, max_size=12), st.integers(1, 5))
def test_a_cut_takes_every_row_once_and_no_part_more_than_it_must(rows, parts):
    ids = [np.array(row, dtype=np.int32) for row in rows]
    found = cut(ids, parts)
    assert len(found) == parts
    assert sorted(i for part in found for i in part) == list(range(len(rows)))
    largest = max(trie_tokens([ids[i] for i in part]) for part in found)
    order = sorted(range(len(rows)), key=lambda i: rows[i])
    every = (  # all ways to cut the sorted rows into so many pieces
        [order[a:b] for a, b in pairwise([0, *ends, len(rows)])]
        for ends in combinations_with_replacement(range(len(rows) + 1), parts - 1)
    )
    best = min(max(trie_tokens([ids[i] for i in part]) for part in pieces) for pieces in every)
    assert largest == best


def test_rows_with_equal_beginnings_are_cut_into_equal_work():
    stem = list(range(100))
    rows = [np.array([*stem, i, *range(50)], dtype=np.int32) for i in range(8)]
    works = [trie_tokens([rows[i] for i in part]) for part in cut(rows, 2)]
    assert works == [100 + 4 * 51] * 2


def test_a_number_of_processes_is_for_a_launch_that_starts_them():
    with pytest.raises(ConfigError, match="--processes 2 .* add --launch ray or torchrun"):
        Plan.of("a", {"data": "rows", "processes": 2})
    assert Plan.of("a", {"data": "rows", "processes": 2, "launch": "torchrun"}).run.processes == 2


def test_a_launch_that_nobody_started_says_how():
    with pytest.raises(ConfigError, match="rung tune --launch torchrun --processes N"):
        launch.get("torchrun").join("cpu")


def test_a_verb_that_is_not_done_together_is_refused(rung_home):
    said = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "rung", "models"], env={**os.environ, **said}, capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "torchrun started 2 processes, which do tune and resume together" in done.stderr


# --- processes that are killed --------------------------------------------------------------------


def rung(*arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "rung", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def kill_a_rank(name: str, launcher: subprocess.Popen, moments: random.Random) -> tuple[int, str]:
    """Kill one of the processes while they train; returns its rank and what was said of it."""
    wait_for_steps(name, launcher)
    time.sleep(moments.uniform(0, 2))
    ranks = {int(c.environ()["RANK"]): c for c in psutil.Process(launcher.pid).children()
             if "RANK" in c.environ()}  # fmt: skip
    rank = moments.choice(sorted(ranks))
    ranks[rank].kill()
    _, said = launcher.communicate(timeout=200)
    return rank, said


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_a_killed_rank_ends_the_training_which_resumes_to_the_same_weights(rung_home, quotes):
    moments = random.Random(int(os.environ.get("RUNG_SEED", "1")))
    both = ["--launch", "torchrun", "--processes", "2"]
    for name, launched in (("whole", []), ("whole2", both)):
        whole = rung("tune", name, "--data", str(quotes), *SETTINGS, *launched)
        assert whole.wait() == 0, whole.stderr.read()
    for i in range(KILLED):
        name = f"killed{i}"
        launcher = rung("tune", name, "--data", str(quotes), *SETTINGS, *both)
        rank, said = kill_a_rank(name, launcher, moments)
        run = run_of(name)
        assert launcher.returncode == 1
        told = [line for line in said.splitlines() if line.startswith("rung: ")]
        assert told == [
            f"rung: process {rank} of 2 (ranks from 0) was ended by SIGKILL, and the training has "
            f"ended with it: go on with rung resume {run.id}"
        ]
        assert "Traceback" not in said
        assert run.status == "interrupted"
        count = (2, 1, 2, 3)[i % 4]
        again = rung("resume", run.id, "--processes", str(count))
        assert again.wait() == 0, again.stderr.read()
        # By as many processes as began it, to the bit; by others, sums are in another order.
        like = "whole2" if count == 2 else "whole"
        own, other = (folders.model_folder(n) / "adapter_model.safetensors" for n in (like, name))
        assert furthest(own, other) <= (0 if count == 2 else FAR)


def test_the_process_that_died_is_told_and_not_those_that_the_launcher_ended():
    def failure(code: int):
        return SimpleNamespace(exitcode=code, signal_name=lambda: signal.Signals(-code).name)

    ended = {0: failure(-signal.SIGTERM), 1: failure(-signal.SIGKILL), 2: failure(-signal.SIGTERM)}
    with pytest.raises(ProcessLost, match="process 1 of 3 .* ended by SIGKILL"):
        torchrun.code_of(ended, 3)
    with pytest.raises(ProcessLost, match="process 0 of 2 .* ended by SIGTERM"):
        torchrun.code_of({0: failure(-signal.SIGTERM)}, 2)
    assert torchrun.code_of({1: failure(3), 0: failure(2)}, 2) == 2
