"""`rung data` as the user sees it."""

from __future__ import annotations

import io
import json

from rich.console import Console

from rung.cli.data import show_data
from rung.data import DataKnobs

from .conftest import template

ROWS = "question,answer\n" + "".join(f"who {i},[bold]me[/bold]\n" for i in range(30))


def shown(knobs: DataKnobs, one=None, terminal: bool = False, **more) -> tuple[int, str]:
    out = io.StringIO()
    console = Console(file=out, width=100, force_terminal=terminal, color_system="standard")
    return show_data(knobs, one, console=console, **more), out.getvalue()


def test_everything_is_there(write):
    code, text = shown(DataKnobs(data=write("rows.csv", ROWS)), template("bytes", "default-system"))
    assert code == 0
    assert "question/answer (question and answer)" in text
    assert "tokens a row" in text
    assert "licence" in text
    # The exact text, the reply marked, and nothing in it taken for markup.
    assert "<|im_start|>system\nBe kind<|im_end|>\n<|im_start|>user\nwho " in text
    assert "⟦[bold]me[/bold]<|im_end|>⟧" in text
    assert "no problems found" in text


def test_colour_marks_on_a_terminal(write):
    _, text = shown(DataKnobs(data=write("rows.csv", ROWS)), template(), terminal=True)
    assert "⟦" not in text
    assert "\x1b[4;32m" in text


def test_json_is_whole_and_plain(write):
    code, text = shown(DataKnobs(data=write("rows.csv", ROWS)), template(), as_json=True, max_length=5)
    content = json.loads(text)
    assert code == 1  # nothing fits into five tokens
    assert content["rows"] == 30
    assert sum(content["splits"].values()) == 30
    assert content["lengths"]["unit"] == "tokens"
    assert {p["severity"] for p in content["problems"]} == {"error", "warning"}
    _, text = shown(DataKnobs(data=write("rows.csv", ROWS)), template(), as_json=True)
    assert json.loads(text)["shown"][0]["marked"].endswith("⟦[bold]me[/bold]<|im_end|>⟧")


def test_without_a_base_lengths_are_characters(write):
    code, text = shown(DataKnobs(data=write("rows.csv", "text,label\nabc,x\nde,y\n")))
    assert code == 0
    assert "characters a row" in text
    assert "x 1, y 1" in text
    assert "only 2 rows" in text
