"""`rung measure`: what it prints, where the page goes, and what it refuses."""

from __future__ import annotations

import json

from rung.cli import run
from tests.cli.conftest import SCRATCH


def test_figures_as_lines_and_the_page_at_home(ask, rung_home):
    answer = ask("measure", SCRATCH, "--quick", "--device", "cpu")
    assert answer.code == 0, answer.err
    lines = [line.split("\t") for line in answer.out.splitlines()]
    assert all(len(line) == 3 for line in lines)
    assert [p for i, (p, *_) in enumerate(lines) if not i or lines[i - 1][0] != p] == [
        "facts", "speed", "reading", "recall", "shots", "variety",
    ]  # fmt: skip
    (page,) = (rung_home / "cards").iterdir()
    assert f"page: {page}" in answer.err and page.read_text().startswith("<!doctype html>")


def test_json_is_one_value_and_the_page_where_it_is_told(ask, tmp_path, rung_home):
    path = tmp_path / "deep" / "card.html"
    answer = ask("measure", SCRATCH, "--quick", "--device", "cpu", "--json", "--out", path)
    assert answer.code == 0, answer.err
    card = json.loads(answer.out)
    assert card["page"] == str(path) and path.exists()
    assert card["facts"]["context"] == 256 and card["quick"] is True


def test_mistakes_are_said_before_anything_is_measured(ask, tmp_path, rung_home, monkeypatch):
    from rung.evals import basecard

    monkeypatch.setattr(basecard, "study", lambda *_: run(["never"]) and 1 / 0)
    assert "say --out FILE" in ask("measure", SCRATCH, "--out", tmp_path).refused()
    (tmp_path / "file").write_text("")
    assert "say --out FILE" in ask("measure", SCRATCH, "--out", tmp_path / "file" / "x.html").refused()
    assert "int4" in ask("measure", SCRATCH, "--quantize", "int3").refused()
    assert "nosuch" in ask("measure", "nosuch").refused()
    short = SCRATCH.replace("context=256", "context=32")
    assert "a context of 32 tokens" in ask("measure", short).refused()
