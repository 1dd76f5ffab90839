"""A model of this machine as teacher: killed at any moment, the same bytes in the end."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time

import pytest

from rung.cli import run

SCRATCH = "scratch:layers=1,width=32,heads=2,vocab=300,context=1200"
WORDS = [
    "synth", "Says what comes to mind.", "--teacher", SCRATCH, "--examples", "12", "--language", "any",
    "--max-words", "30", "--topics", "2",
]  # fmt: skip

KILLS = int(os.environ.get("RUNG_KILLS", "1"))


def start(out, home) -> subprocess.Popen:
    environment = {**os.environ, "RUNG_HOME": str(home)}
    command = [sys.executable, "-m", "rung.cli", *WORDS, "--out", str(out)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)


@pytest.mark.faults
def test_killed_at_random_and_resumed_it_gives_the_same_bytes(tmp_path, monkeypatch):
    home = tmp_path / "own"  # with a cache of its own, which is emptied in between
    monkeypatch.setenv("RUNG_HOME", str(home))
    whole = tmp_path / "whole.jsonl"
    assert run([*WORDS, "--out", str(whole)]) in (0, 1)
    rows = [json.loads(line) for line in whole.read_text().splitlines()]
    assert rows and all(row["provenance"]["teacher"] == SCRATCH for row in rows)
    kept = home / "cache" / "synthesis"
    out, source = tmp_path / "killed.jsonl", random.Random(7)

    def emptied() -> None:
        for path in kept.glob("*/*.json"):
            path.unlink()
        out.unlink(missing_ok=True)

    emptied()
    kills = 0
    while kills < KILLS:
        process, seen = start(out, home), len(list(kept.glob("*/*.json")))
        until = time.monotonic() + 90
        while process.poll() is None and time.monotonic() < until:  # after another wave, a little later
            if len(list(kept.glob("*/*.json"))) > seen:
                time.sleep(source.random() * 0.3)
                process.kill()
                break
            time.sleep(0.01)
        kills += process.wait() < 0
        if out.exists():  # it was over first
            assert out.read_bytes() == whole.read_bytes()
            emptied()
    if not out.exists():
        assert start(out, home).wait() in (0, 1)
    assert out.read_bytes() == whole.read_bytes()


def test_a_stored_model_teaches_under_its_own_class(rung_home, tmp_path, capsys):
    data, out = tmp_path / "seed.jsonl", tmp_path / "rows.jsonl"
    rows = [{"prompt": f"Say {i}.", "completion": f"It is {i}!"} for i in range(20)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = ["--base", SCRATCH, "--dtype", "float32", "--device", "cpu", "--steps", "1"]
    assert run(["tune", "wise", "--data", str(data), *base]) == 0
    words = ["--teacher", "wise", "--examples", "3", "--language", "any", "--topics", "1", "--json"]
    assert run(["synth", "Says numbers.", "--out", str(out), *words]) in (0, 1)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["licence_class"] == "unknown" and found["rows"] == len(out.read_text().splitlines())
