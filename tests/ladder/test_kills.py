"""A climb that is killed and resumed gives the table of one that was left alone.

In this process a kill is an end of all writing at some write; `RUNG_KILLS` real ones (20) are slow.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rung.ladder.climb import climb, resume
from rung.ladder.controller import ClimbController
from rung.ladder.knobs import ClimbKnobs
from rung.store import Store, database, runs
from rung.store import climbs as climbs_module
from tests.ladder.hill import SCRATCH, Log, rungs_of, settings, write_words

KILLS = int(os.environ.get("RUNG_KILLS", "20"))
RUNGS = ["tfidf", "zero_shot", "linear_probe", "lora"]


class Killed(BaseException):
    """What no handler of the climb's catches."""


def table(store: Store, climb_id: str) -> dict[str, Any]:
    """What a climb found, without the time that it took: of alike figures the cheaper wins."""
    found = {}
    for key, row in rungs_of(store, climb_id).items():
        done = row.trials.get("done", [])
        figure = round(row.metrics["validation"]["value"], 6) if row.metrics else None
        levels = sorted((a["level"], sorted(a["params"].items()), a["steps"]) for a in done)
        found[key] = (row.status, figure, levels)
    said = store.climbs.get(climb_id).verdict
    return {"rows": found, "best": found[said["winner"]][1], "examined": len(said["test"])}


@pytest.fixture
def words(tmp_path: Path, rung_home: Path) -> Path:
    return write_words(tmp_path / "words.jsonl")


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], int]:
    """Counts writes to the store since it was last asked; after so many nothing is written any more."""
    at: dict[str, Any] = {"count": 0, "limit": None}
    write = database.Database.write

    def counted(self: Any, *given: Any) -> Any:
        at["count"] += 1
        if at["limit"] is not None and at["count"] > at["limit"]:
            raise Killed
        return write(self, *given)

    monkeypatch.setattr(database.Database, "write", counted)
    for module in (runs, climbs_module):  # this process lives on, where a killed one does not
        monkeypatch.setattr(module, "alive", lambda *_: False)

    def until(limit: int | None) -> int:
        seen = at["count"]
        at.update(count=0, limit=limit)
        return seen

    return until


def begin(words: Path, store: Store, name: str) -> str:
    knobs = ClimbKnobs(
        only=RUNGS, skip=["lora-upper", "lora-int8", "linear_probe-minilm"], all=True, budget="1h",
        trials=2,
        requests=10,
    )  # fmt: skip
    return climb(name, settings(words, steps=8), knobs, Log(), store).id


def killed(work: Callable[[], Any]) -> bool:
    try:
        work()
    except Killed:
        return True
    return False


def test_killed_at_some_writes_and_resumed_the_table_is_the_same(words, writes):
    draw = random.Random(3)
    with Store.open() as store:
        writes(None)
        whole = table(store, begin(words, store, "whole"))
        count = writes(None)
        assert count > 40
        for i in range(2):
            writes(draw.randrange(8, count // 2))
            assert killed(lambda i=i: begin(words, store, f"killed{i}"))
            writes(None)
            found = store.climbs.list()[0].id
            while store.climbs.get(found).status != "succeeded":
                writes(draw.randrange(5, count))
                killed(lambda found=found: resume(found, Log(), store))
                writes(None)
            assert table(store, found) == whole
            assert all(r.status != "running" for r in store.runs.list())


def test_killed_right_behind_an_attempt_its_rung_stands(words, writes, monkeypatch):
    put = ClimbController._put

    def dies(self: ClimbController, record: Any) -> None:
        if (record.key, record.status) == ("linear_probe", "succeeded"):
            monkeypatch.setattr(ClimbController, "_put", put)
            writes(0)
        put(self, record)

    with Store.open() as store:
        writes(None)
        whole = table(store, begin(words, store, "whole"))
        monkeypatch.setattr(ClimbController, "_put", dies)
        assert killed(lambda: begin(words, store, "killed"))
        writes(None)
        found = store.climbs.list()[0].id
        resume(found, Log(), store)
        assert table(store, found) == whole


# --- real kills ---------------------------------------------------------------------------------


def command(*arguments: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "rung.cli", "climb", *map(str, arguments)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def first_write(process: subprocess.Popen[str], before: int) -> str | None:
    """The climb's id, as soon as the store has it."""
    until = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < until:
        found = Store.open().climbs.list()
        if len(found) > before:
            return found[0].id
        time.sleep(0.05)
    return None


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_killed_at_random_moments_and_resumed_the_table_is_the_same(words):
    moments = random.Random(int(os.environ.get("RUNG_SEED", "1")))
    flags = [words, "--base", SCRATCH, "--dtype", "float32", "--device", "cpu", "--steps", "60",
             "--validation", "0.2", "--test", "0.2", "--all", "--budget", "1h", "--trials", "2",
             "--requests", "10", "--skip", "lora-upper,lora-int8", "--skip", "linear_probe-minilm",
             "--report", words.parent / "r.html"]  # fmt: skip
    flags += [word for key in RUNGS for word in ("--only", key)]
    alone = command(*flags, "--name", "whole")
    assert alone.wait() == 0, alone.stderr.read()
    whole = table(Store.open(), Store.open().climbs.list()[0].id)
    kills, i = 0, 0
    while kills < KILLS:
        i += 1
        before = len(Store.open().climbs.list())
        process = command(*flags, "--name", f"killed{i}")
        found = first_write(process, before)
        assert found is not None, process.stderr.read()
        while Store.open().climbs.get(found).status != "succeeded":
            time.sleep(moments.uniform(0, 12))
            kills += process.poll() is None
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stderr.close()
            if Store.open().climbs.get(found).status != "succeeded":
                process = command("--resume", found, "--report", words.parent / "r.html")
        process.wait()
        assert table(Store.open(), found) == whole, f"climb {i}"
