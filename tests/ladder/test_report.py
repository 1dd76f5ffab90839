"""The scorecard as a table and as a page: every section, nothing from the network."""

from __future__ import annotations

import dataclasses
import io
import re
import shlex
from pathlib import Path

import pytest
from rich.console import Console

from rung.cli.ladder import table
from rung.ladder.report import render, write_report
from rung.ladder.scorecard import Scorecard, cells, head, reasons
from rung.store import Store
from tests.conftest import _prepare
from tests.ladder.hill import SCRATCH, go, settings, write_words

ONLY = ["zero_shot", "linear_probe", "lora", "rag"]


@pytest.fixture(scope="module")
def climbed(tmp_path_factory: pytest.TempPathFactory):
    """A whole climb with --all and a bar, its page, and its card."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("climbed")
        patch.setenv("RUNG_HOME", str(_prepare(folder / "home")))
        path = write_words(folder / "words.jsonl")
        given = settings(path, steps=6, eval_every=2)
        record, _ = go(path, given=given, only=ONLY, all=True, bar="accuracy=0.9", price=2.0)
        with Store.open() as store:
            card = Scorecard.of(store, record)
            yield card, render(store, card), store, path


def section(page: str, name: str) -> str:
    """A part of the page from its heading to the next."""
    return page[page.index(f'id="{name}"') :].partition("<h2")[0]


def test_the_page_needs_no_network(climbed):
    page = climbed[1]
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!#)""", page)
    assert "http" not in re.sub(r"<code>.*?</code>", "", page, flags=re.DOTALL)
    assert "@import" not in page and "url(" not in page.replace("url(#", "")


def test_quality_is_drawn_against_cost_with_intervals(climbed):
    card, page = climbed[0], climbed[1]
    drawn = section(page, "pareto")
    assert drawn.count("<svg") == 1
    for key in ("base", "zero_shot", "linear_probe", "lora"):
        assert key in drawn, key
    assert "bar 0.9" in drawn
    assert drawn.count("LineCollection") >= 4  # an interval for each point
    assert "total cost" in drawn and card.metric in drawn


def test_the_cost_table_has_a_row_for_every_rung(climbed):
    card, page = climbed[0], climbed[1]
    table = section(page, "costs")
    for row in card.rows:
        assert f"<td>{row.key}</td>" in table
        if row.validation:
            assert f"{row.validation['value']:.3f}" in table
    assert "--documents" in table  # why rag was not tried
    assert "price" in table and "winner" in table


def test_the_page_leads_with_the_verdict_a_picture_and_what_was_tried(climbed):
    card, page = climbed[0], climbed[1]
    places = [page.index(f'id="{name}"') for name in ("verdict", "pareto", "tried", "costs")]
    assert places == sorted(places)
    tried = section(page, "tried")
    for row in card.rows:
        assert (f"<td>{row.key}</td>" in tried) == bool(row.validation)
    folded = page[page.index('id="costs"') - 60 :]
    assert folded.count("<details") == folded.count("</details>") and "<details" in folded


def test_learning_curves_are_drawn(climbed):
    page = climbed[1]
    assert "<svg" in section(page, "curves") and "validation loss" in section(page, "curves")


def test_the_confusion_matrix_adds_up_to_the_test_rows(climbed):
    card, page = climbed[0], climbed[1]
    matrix = section(page, "confusion")
    counts = [int(n) for n in re.findall(r"<td style=[^>]*>(\d+)</td>", matrix)]
    winner = card.row(card.winner)
    assert sum(counts) == winner.test["n"]
    assert all(f"<th>{label}</th>" in matrix for label in ("kind", "cruel"))


def test_errors_name_the_row_the_truth_and_the_answers(climbed):
    page = climbed[1]
    errors = section(page, "errors")
    shown = errors.count('class="lesson"')
    assert 0 < shown <= 10
    assert errors.count("words.jsonl:") == shown and errors.count("right: <strong>") == shown
    assert 'class="wrong"' in errors


def test_lineage_and_licence_are_there(climbed):
    card, page = climbed[0], climbed[1]
    lineage = section(page, "lineage")
    assert card.data["name"] in lineage and card.base["name"] in lineage
    assert card.licence["class"] in lineage


def test_the_command_of_each_row_makes_it_again(climbed, tmp_path):
    """The words of the page are given to the command line, and the figure comes out the same."""
    import numpy as np
    from safetensors.numpy import load_file

    from rung.cli import run

    def read(folder):
        return load_file(folder / "weights.safetensors")

    card, page, store, path = climbed
    commands = section(page, "commands")
    for row in card.rows:
        if row.status == "succeeded":
            assert row.key in commands and row.command.split()[0] == "rung"
    row = card.row("linear_probe")
    words = shlex.split(row.command)
    assert words[:4] == ["rung", "tune", "words-linear_probe", "--method"]
    folder = Path(store.models.get("words-linear_probe").folder)
    before = read(folder)
    run_before = store.models.get("words-linear_probe").run
    assert run(words[1:]) == 0
    assert store.models.get("words-linear_probe").run != run_before
    after = read(folder)
    assert before and before.keys() == after.keys()
    apart = {name: float(np.abs(before[name] - after[name]).max()) for name in before}
    assert max(apart.values()) < 0.02, apart  # kept states are rounded
    for other in card.rows:
        if other.status == "succeeded" and other.method:
            assert SCRATCH in other.command and str(path) in other.command


def test_a_page_of_a_climb_that_has_not_ended(climbed, tmp_path):

    card, _, store, _ = climbed
    bare = dataclasses.replace(card, climb=dataclasses.replace(card.climb, verdict={}))
    write_report(store, bare, tmp_path / "deep" / "page.html")
    assert "has not ended" in (tmp_path / "deep" / "page.html").read_text()


def test_no_page_is_written_over_somebody_elses(climbed, tmp_path, monkeypatch):

    card, _, store, _ = climbed
    other = dataclasses.replace(card, climb=dataclasses.replace(card.climb, id="other", name="words-2"))
    monkeypatch.chdir(tmp_path)
    assert write_report(store, card) == write_report(store, card) == Path("report.html")
    before = Path("report.html").read_text()
    assert write_report(store, other) == Path("report-words-2.html")
    assert Path("report.html").read_text() == before
    Path("report.html").write_text("my own page")
    write_report(store, card)
    assert Path("report.html").read_text() == "my own page"
    assert write_report(store, card, Path("report.html")) == Path("report.html")  # it was asked for
    assert Path("report.html").read_text() != "my own page"


def test_the_table_shows_what_pays_once_and_what_with_every_request(climbed):
    card = climbed[0]
    titles = head(card.metric, 10)
    assert {"making it", "a request", "10 requests", "total"} <= set(titles)
    for row in card.rows:
        shown = dict(zip(titles, cells(row, card.winner), strict=True))
        cost = row.cost
        if row.status == "succeeded":
            assert cost["total_seconds"] == pytest.approx(
                cost["seconds"] + 10 * cost["request_seconds"]
            )
            assert shown[card.metric].startswith(f"{row.validation['value']:.3f} [")
    skipped = cells(card.row("rag"))
    assert skipped[-1].startswith("skipped: ") and "--documents" in skipped[-1]
    assert cells(card.row(card.winner), card.winner)[-1] == "winner"


def test_the_drawn_table_keeps_reasons_below_it(climbed):
    card = climbed[0]
    rag = card.row("rag")
    assert cells(rag, why=False)[-1] == "skipped"
    assert reasons(card.rows) == [f"rag skipped: {rag.reason}"]
    twin = dataclasses.replace(rag, key="other")
    assert reasons([rag, twin]) == [f"rag, other skipped: {rag.reason}"]
    assert drawn(card, 118)[-1].strip() == f"rag skipped: {rag.reason}"


@pytest.mark.parametrize("width", [118, 100, 80])
def test_the_drawn_table_folds_no_row_on_a_narrow_terminal(climbed, width):
    card = climbed[0]
    rows = [dataclasses.replace(r, cut_from=960, steps=219, key=r.key + 7 * "x") for r in card.rows]
    card = dataclasses.replace(card, rows=tuple(rows))
    lines = drawn(card, width)
    titles = " ".join(lines[: next(i for i, line in enumerate(lines) if "───" in line)])
    assert ("tokens" in titles) == (width == 118) and ("total" in titles)
    for row in rows:
        found = next(line for line in lines if line.strip().startswith(row.key))
        assert row.status != "succeeded" or f"{row.validation['value']:.3f} [" in found
    assert sum(bool(line.strip()) for line in lines) <= len(rows) + 6  # heads, a rule, reasons


def drawn(card: Scorecard, width: int) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table(card.rows, card.climb, width))
    return console.export_text().splitlines()


def test_a_training_that_time_ended_says_how_far_it_came(climbed):
    row = dataclasses.replace(climbed[0].row("lora"), steps=96, cut_from=576, only=None, below=False)
    assert cells(row)[-1] == "96/576 steps"
    assert cells(row, winner="lora")[-1] == "winner, 96/576 steps"
