"""The examples of tasks run as they stand, on a tiny fresh base and few rows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
BASE = "scratch:layers=2,width=32,heads=2,vocab=400,context=8192"
SHOWN = {
    "sentiment.sh": ("accuracy", "macro_f1"),
    "question_answering.sh": ("accuracy", "accuracy_norm", "number_match"),
    "translation.sh": ("chrf", "bleu"),
    "coreference.sh": ("accuracy", "accuracy_norm"),
    "parsing.py": ("bracket_f1",),
}


@pytest.mark.wheel
@pytest.mark.slow
@pytest.mark.parametrize("name", SHOWN)
def test_an_example_runs_and_compares_with_the_base(name, rung_home):
    path = ROOT / "examples" / name
    beside = Path(sys.executable).parent
    shell = {"BASE": BASE, "ROWS": "40", "PATH": f"{beside}{os.pathsep}{os.environ['PATH']}"}
    command = ["bash", str(path)]
    if path.suffix == ".py":
        command = [sys.executable, str(path), "--rows", "40", "--base", BASE]
    done = subprocess.run(
        command, env={**os.environ, **shell}, capture_output=True, text=True, timeout=280
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    tables = [line for line in done.stdout.splitlines() if line.startswith("model\t")]
    assert tables and all("against" in head for head in tables)
    for metric in SHOWN[name]:
        assert any(metric in head.split("\t") for head in tables), metric
