"""Many labels, in every method that classifies, in the report and in its confusions."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from rung.ladder.report import render
from rung.ladder.scorecard import Scorecard
from rung.store import Store
from tests.ladder.hill import Log, go, settings

EACH = 6
SYLLABLES = ("ka", "lo", "mi", "ru", "te", "so", "pa", "ne", "vu", "zi")


def word(number: int) -> str:
    return "".join(SYLLABLES[int(digit)] for digit in f"{number:03d}")


def write_intents(path: Path, labels: int) -> Path:
    """Rows that name their label's word among others."""
    draw = random.Random(5)
    rows = [
        {"text": f"please {draw.choice(['see', 'do', 'find'])} {word(k)} {draw.randrange(99)}",
         "label": f"intent_{k}"}
        for k in range(labels) for _ in range(EACH)
    ]  # fmt: skip
    draw.shuffle(rows)
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


@pytest.mark.parametrize("labels", [60, pytest.param(200, marks=pytest.mark.slow)])
def test_a_climb_over_many_labels(tmp_path: Path, rung_home: Path, labels: int) -> None:
    path = write_intents(tmp_path / "intents.jsonl", labels)
    held = labels // 2
    log, only = Log(), ["tfidf", "zero_shot", "linear_probe", "last_layers", "lora"]
    record, rungs = go(path, log, settings(path), only=only, all=True, validation_rows=held)
    assert record.task["kind"] == "classification" and len(record.task["labels"]) == labels
    for key in ("base", *only):
        seen = rungs[key].metrics["validation"]
        assert rungs[key].status == "succeeded" and seen["n"] == held, rungs[key].reason
        assert set(rungs[key].items["validation"]["texts"]) <= set(record.task["labels"]), key
    assert rungs["tfidf"].metrics["validation"]["value"] > 0.9
    confusion = record.verdict["test"][record.verdict["winner"]]["confusion"]
    assert len(confusion) == labels
    assert sum(map(sum, confusion)) == record.verdict["test"][record.verdict["winner"]]["n"]
    with Store.open() as store:
        page = render(store, Scorecard.of(store, record))
    assert f"of {labels} labels those most often taken for another" in page
    assert len(page) < 1_000_000
