"""What a person meets in the first hours: completion, going on without a name, a plot of the loss."""

from __future__ import annotations

import io
import json
import math
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.cli import plot, resumable
from rung.store import Store
from rung.store.records import BaseRecord, DatasetRecord
from tests.cli.conftest import FAST, Ask


def completed(words: str, tmp_path: Path) -> list[str]:
    """What bash offers behind these words, by the script that `rung --show-completion` prints."""
    (tmp_path / "rung").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m rung.cli "$@"\n')
    (tmp_path / "rung").chmod(0o755)
    # Substituted by a shell of its own, so that it is bash who is asked for.
    script = (
        f'eval "$(rung --show-completion bash)"; COMP_WORDS=({words}); '
        f"COMP_CWORD={len(words.split()) - 1}; _rung_completion rung; "
        "printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True,
                          env={**os.environ, "PATH": path})  # fmt: skip
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_verbs_and_flags(tmp_path):
    assert set(completed("rung re", tmp_path)) == {"redteam", "resume", "remove"}
    offered = completed("rung tune coach --rank", tmp_path)
    assert "--rank" in offered and all(one.startswith("--rank") for one in offered)


BASE = BaseRecord(digest="b" * 64, name="tiny", spec="tiny")
DATA = DatasetRecord(digest="d" * 64, name="moods", source="moods.csv")


def interrupted(store: Store, *names: str) -> list[str]:
    return [store.runs.create(name, "lora", status="interrupted").id for name in names]


def test_resume_by_the_name_of_a_model_or_the_id_of_a_climb_says_what_is_meant(
    ask: Ask, rung_home: Path
) -> None:
    with Store.open() as store:
        older, newer = interrupted(store, "coach", "coach")
        interrupted(store, "satire")
        climb = store.climbs.create("moods", task={}, base=BASE, data=DATA).id
    assert f"no run 'coach' (rung runs lists them), the last of model 'coach' is {newer}" in (
        ask("resume", "coach").refused()
    )
    assert f"it is a climb: rung climb --resume {climb}" in ask("resume", climb).refused()
    assert f"did you mean '{older}'" in ask("resume", older[:-1]).refused()


def test_a_command_of_the_conversation_on_stdin_is_told_to_be_a_question(
    ask: Ask, studio: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for said, told in (("/help\nHello\n", True), ("/helpful\n", False), ("Say /help\n", False)):
        monkeypatch.setattr(sys, "stdin", io.StringIO(said))
        found = ask("chat", "coach", "--max-tokens", "1")
        assert found.code == 0
        assert ("is one question: /help is no command here" in found.err) is told
        assert "(cut after 1 token: raise --max-tokens)" in found.err or not found.out.strip()


def test_resume_without_a_name_says_what_there_is(ask: Ask, rung_home: Path) -> None:
    assert "nothing was interrupted" in ask("resume").refused()
    assert "nothing was interrupted" in ask("climb", "--resume").refused()
    with Store.open() as store:
        ids = interrupted(store, "coach", "satire")
        store.climbs.create("moods", task={}, base=BASE, data=DATA)
        (climb,) = [c.id for c in store.climbs.list()]
        store.climbs.update(climb, status="interrupted")
    said = ask("resume").refused()
    assert "say which: rung resume RUN" in said and all(id in said for id in ids)
    assert climb in ask("climb", "--resume").refused()
    assert climb in ask("climb", "--resume", "--json").refused()
    assert "no run" in ask("resume", "nonsense").refused()


def test_on_a_terminal_the_number_is_asked_for(rung_home: Path, monkeypatch) -> None:
    with Store.open() as store:
        first, second = interrupted(store, "coach", "satire")
    offered = resumable.runs()
    assert {one.id for one in offered} == {first, second}
    controller, terminal = pty.openpty()
    code = (
        "from rung.cli import resumable; "
        "print('chosen', resumable.which(resumable.runs(), 'rung resume RUN'))"
    )
    os.write(controller, b"2\n")
    done = subprocess.run([sys.executable, "-c", code], stdin=terminal, stderr=terminal,
                          stdout=subprocess.PIPE, text=True)  # fmt: skip
    assert done.stdout.split()[-1] == offered[1].id


@given(
    st.lists(st.floats(-1e6, 1e6, allow_nan=False), min_size=2, max_size=300),
    st.integers(0, 200),
    st.integers(2, 20),
)
def test_a_plot_fits_and_shows_both_ends(values, width, height):
    points = list(enumerate(values, 1))
    lines = plot.draw({"training": points}, width, height)
    rows = lines[:height]
    assert len({len(row) for row in rows}) == 1 and len(rows[0]) <= max(width, 2 * plot.LABEL + 4)
    cells = [row.split("│")[1] for row in rows]
    assert ord(cells[0][0]) != 0x2800 or len(set(values)) > 1
    # The highest value touches the first line, the lowest the last.
    assert any(ord(cell) > 0x2800 for cell in cells[0])
    assert len(set(values)) == 1 or any(ord(cell) > 0x2800 for cell in cells[-1])
    assert f"{values[0]:.3f} -> {values[-1]:.3f}" in lines[-1]


def test_the_loss_is_read_from_a_log_that_a_kill_cut(rung_home: Path) -> None:
    folder = rung_home / "runs" / "coach-1"
    folder.mkdir(parents=True)
    log = [{"step": n, "loss": 4 / n} for n in range(1, 9)] + [{"step": 8, "validation_loss": math.pi}]
    (folder / "log.jsonl").write_text("".join(json.dumps(e) + "\n" for e in log) + '{"step": 9, "lo')
    assert plot.loss_of("coach-1") == {"training": [(n, 4 / n) for n in range(1, 9)]}
    assert plot.loss_of("never") == {} and plot.draw({}) == []


@pytest.mark.parametrize("method", ["lora", "linear_probe", "tfidf"])
def test_what_is_odd_about_the_data_is_said_whatever_the_method(
    ask: Ask, rung_home: Path, tmp_path: Path, method: str
) -> None:
    labels = ["up", "down"] * 12
    files = {"train": [*labels, "lone"], "test": [*labels[:5], "side"]}
    for name, found in files.items():
        rows = [{"text": f"{name} kite {i}", "label": label} for i, label in enumerate(found)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = ("--data", tmp_path / "train.jsonl", "--test-data", tmp_path / "test.jsonl")
    answer = ask("tune", "odd", *data, *FAST, "--method", method)
    assert answer.code == 0, answer.err
    assert "1 label has a single row" in answer.err
    assert "1 test row has a label that no training row has" in answer.err


def test_a_refused_setting_leaves_no_run(ask: Ask, rung_home: Path, good: Path) -> None:
    targets = ("--method", "lora", "--targets", "nonsense")
    assert "nonsense" in ask("tune", "coach", "--data", good, *FAST, *targets).refused()
    with Store.open() as store:
        assert store.runs.list() == []
    assert not list((rung_home / "runs").glob("*/log.jsonl"))


@pytest.mark.parametrize(
    ("metrics", "told"),
    [
        ({"c": 0.5, "choice": "19.last", "held_out_accuracy": 0.9, "validation_accuracy": 0.8},
         "validation_accuracy 0.8"),
        ({"best_step": 9, "validation_loss": 1.5, "test_loss": 1.25, "test_loss_of_base": 2.0},
         "test_loss 1.25 (base 2)"),
        ({"choice": "C 2", "features": 443}, ""),
        ({"accuracy": {"value": 0.8, "low": 0.7, "high": 0.9, "n": 50}, "loss": 1.0}, "accuracy 0.8 "),
    ],
)  # fmt: skip
def test_the_quality_of_a_model_is_a_figure_and_no_setting(metrics, told, ask: Ask, rung_home):
    Store.open().models.put("coach", method="lora", base=BASE, metrics=metrics)
    head, row = (line.split("\t") for line in ask("models").out.splitlines())
    shown = row[head.index("quality")]
    assert shown.startswith(told) and bool(shown) == bool(told)
