"""`rung climb` on the command line: what it prints, what it writes, how it goes on, what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from rung.cli.ladder import Ladder
from rung.store import Store
from tests.cli.conftest import Ask
from tests.ladder.hill import SCRATCH, write_words

FAST = (
    "--base", SCRATCH, "--dtype", "float32", "--device", "cpu", "--requests", "10",
    "--validation", "0.2", "--test", "0.2", "--only", "zero_shot", "--only", "linear_probe",
)  # fmt: skip


@pytest.fixture
def words(tmp_path: Path, rung_home: Path) -> Path:
    return write_words(tmp_path / "words.jsonl")


def test_a_table_a_verdict_a_page_and_what_to_do_next(ask: Ask, words: Path, tmp_path: Path) -> None:
    page = tmp_path / "out" / "page.html"
    said = ask("climb", words, *FAST, "--bar", "accuracy=0.9", "--report", page)
    assert said.code == 0, said.err
    lines = said.out.splitlines()
    head = lines[0].split("\t")
    assert head[:2] == ["rung", "accuracy"] and "10 requests" in head
    rows = {line.split("\t")[0]: line.split("\t") for line in lines if "\t" in line}
    assert rows["linear_probe"][-1] == "winner"
    if "zero_shot" not in rows:  # a probe that costs less goes first
        assert any("linear_probe clears the bar on validation: zero_shot; --all" in x for x in lines)
    assert re.match(r"\d\.\d{3} \[\d\.\d\d, \d\.\d\d\]", rows["base"][1])
    assert f"The whole scorecard: {page}" in lines and page.read_text().startswith("<!doctype html>")
    assert "Go on with: rung chat words-linear_probe, rung serve words-linear_probe" in lines
    assert "cannot tell accuracy" in said.err and "Traceback" not in said.err
    answer = ask("chat", "words-linear_probe", "--prompt", "rain cold dark and so the day")
    assert answer.code == 0 and answer.out.split()[-1] == "cruel"


def test_what_suits_no_data_like_this_stands_on_one_line_a_reason(
    ask: Ask, words: Path, tmp_path: Path
) -> None:
    only = ("--only", "towers", "--only", "steering", "--only", "rag", "--only", "prefix_tuning")
    said = ask("climb", words, *FAST[:10], *only, "--budget", "1m", "--report", tmp_path / "page.html")
    lines = [line.strip() for line in said.err.splitlines() if "skipped: " in line]
    assert len(lines) == 3 and not any(line.startswith("rung") for line in lines)
    assert any(line.startswith("rag skipped: it answers from documents") for line in lines)
    only = (*only, "--only", "remote")  # a fourth reason: the table has them all
    said = ask("climb", words, *FAST[:10], *only, "--budget", "1m", "--report", tmp_path / "page.html")
    lines = [line.strip() for line in said.err.splitlines() if " skipped: " in line]
    assert any(line.startswith("rag, remote, steering, towers skipped: the table") for line in lines)
    assert "rag\t" in said.out and "it answers from documents" in said.out


def test_what_there_was_no_time_for_stands_on_a_few_lines(
    ask: Ask, words: Path, tmp_path: Path
) -> None:
    said = ask("climb", words, *FAST[:10], "--budget", "1s", "--report", tmp_path / "page.html")
    lines = [line.strip() for line in said.err.splitlines() if " skipped: " in line]
    untried = [line.split("\t")[0] for line in said.out.splitlines() if "a sample would take" in line]
    assert len(untried) > 3, said.out
    # Rungs of one reason share a line, and where there are more reasons all do.
    assert len([line for line in lines if "skipped: no time" in line]) <= 3
    assert all(any(key in line for line in lines) for key in untried)


def test_a_climb_that_measured_no_rung_is_no_success(ask: Ask, words: Path, tmp_path: Path) -> None:
    said = ask(
        "climb", words, *FAST[:10], "--only", "rag", "--budget", "1s", "--report", tmp_path / "p"
    )
    assert "Traceback" not in said.err
    assert said.code == 1, said.out


def test_json_holds_all_of_it(ask: Ask, words: Path, tmp_path: Path) -> None:
    given = ("--only", "linear_probe", "--report", tmp_path / "page.html", "--json")
    said = ask("climb", words, *FAST[:12], *given)
    found = json.loads(said.out)
    assert found["status"] == "succeeded" and found["verdict"]["model"].startswith("words-linear_probe")
    rung = next(r for r in found["rungs"] if r["key"] == "linear_probe")
    assert rung["validation"]["low"] <= rung["validation"]["value"] <= rung["validation"]["high"]
    assert rung["cost"]["total_seconds"] > 0 and rung["command"].startswith("rung tune")


def test_ctrl_c_says_how_to_go_on_and_that_works(
    ask: Ask, words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Ladder.stage

    def stops(self: Ladder, text: str) -> None:
        stage(self, text)
        if text.endswith(": beginning") and done(self):
            raise KeyboardInterrupt

    def done(self: Ladder) -> bool:
        return any(r.status == "succeeded" and r.method for r in self._rows)

    monkeypatch.setattr(Ladder, "stage", stops)
    page = ("--report", tmp_path / "page.html")
    said = ask("climb", words, *FAST, "--all", *page)
    assert said.code == 130 and "Traceback" not in said.err
    assert "The climb was stopped; the best so far is" in said.out and page[1].exists()
    found = re.search(r"go on with: rung climb --resume (\S+)", said.err)
    assert found
    monkeypatch.setattr(Ladder, "stage", stage)
    again = ask("climb", "--resume", found[1], *page)
    assert again.code == 0 and "winner" in again.out
    with Store.open() as store:
        for name in ("words-zero_shot", "words-linear_probe"):
            done_runs = [r for r in store.runs.list(model=name) if r.status == "succeeded"]
            assert len(done_runs) == 1
    refused = ask("climb", "--resume", found[1])
    assert refused.code == 2 and "has finished" in refused.err


def test_a_name_that_is_taken_is_refused_at_once(ask: Ask, words: Path, tmp_path: Path) -> None:
    once = ("climb", words, *FAST[:12], "--only", "zero_shot", "--report", tmp_path / "p.html")
    assert ask(*once).code == 0
    assert "'words-zero_shot'" in ask(*once, "--name", "words").refused()
    assert "rung chat words-2-zero_shot" in ask(*once).out
    assert ask(*once, "--name", "words", "--replace").code == 0


def test_an_unknown_climb_names_the_nearest(ask: Ask, rung_home: Path) -> None:
    assert "no climb 'nothing'" in ask("climb", "--resume", "nothing").refused()
    changed = ask("climb", "--resume", "nothing", "--budget", "2h", "--name", "other").refused()
    assert "leave out --budget, --name" in changed  # they were dropped without a word
